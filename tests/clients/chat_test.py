"""`engram chat` on a terminal: editing, history, Unicode, Ctrl-C and Ctrl-D.

The server is a scripted one, so that each line that was sent can be compared.

Usage: chat_test.py BINARY_FOLDER STUBS_FOLDER
"""
import concurrent.futures
import os
import pathlib
import signal
import stat
import sys
import tempfile
import threading
import unittest

BIN = pathlib.Path(sys.argv.pop(1)).resolve()
sys.path.insert(0, str(pathlib.Path(sys.argv.pop(1)).resolve()))

import grpc
from engram.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc

from terminal import Terminal

# Of every program that is started here, in the build with AddressSanitizer.
LIBEDIT_LEAKS = pathlib.Path(__file__).resolve().parent / "libedit.supp"
os.environ["LSAN_OPTIONS"] = f"suppressions={LIBEDIT_LEAKS}:print_suppressions=0"
LEFT, UP = "\x1b[D", "\x1b[A"
BACKSPACE = "\x7f"
CTRL_A, CTRL_C, CTRL_D, CTRL_Z = "\x01", "\x03", "\x04", "\x1a"


class Server(generation_pb2_grpc.GenerationServicer, sessions_pb2_grpc.SessionsServicer):
    """Answers "answer N" to the N-th turn; "hang" says "begun" and then nothing
    until the call is cancelled, and is kept as a fragment."""

    def __init__(self):
        self.requests = []
        self.version = 0
        self.refuse_next = 0  # Turns to refuse as if the one before were still running.
        self.hangs = False  # A turn is running and has still to be kept.
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        generation_pb2_grpc.add_GenerationServicer_to_server(self, self.server)
        sessions_pb2_grpc.add_SessionsServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Get(self, request, context):
        if self.version == 0:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no such session")
        return sessions_pb2.Session(session_id=request.session_id, version=self.version)

    def Generate(self, request, context):
        if self.refuse_next > 0 or self.hangs:
            self.refuse_next -= 1
            context.abort(grpc.StatusCode.ABORTED, "a turn is running")
        if request.expected_version != self.version:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"it has version {self.version}")
        self.requests.append(request)
        yield generation_pb2.GenerateResponse(started=generation_pb2.Started(session_id=request.session_id))
        if request.text.strip() == "hang":
            self.hangs = True
            ended = threading.Event()

            def keep():
                self.version += 1
                self.hangs = False
                ended.set()

            # Asked for before the client can know of the turn: a call that has been cancelled takes no callback,
            # and of its generator nothing more is run.
            context.add_callback(keep)
            yield generation_pb2.GenerateResponse(token=generation_pb2.Token(index=0, id=7, text="begun"))
            ended.wait()
            return
        yield generation_pb2.GenerateResponse(
            token=generation_pb2.Token(index=0, id=7, text=f"answer {len(self.requests)}"))
        self.version += 1
        yield generation_pb2.GenerateResponse(
            completed=generation_pb2.Completed(finish_reason=generation_pb2.LENGTH, version=self.version))


class ChatTest(unittest.TestCase):
    def setUp(self):
        self.server = Server()
        self.addCleanup(lambda: self.server.server.stop(None).wait())
        self.state = tempfile.TemporaryDirectory()
        self.addCleanup(self.state.cleanup)

    def chat(self, *flags, **environment):
        terminal = Terminal(
            [str(BIN / "engram"), "chat", "--session", "s", "--server", self.server.address, *flags],
            dict(os.environ, XDG_STATE_HOME=self.state.name, HOME=self.state.name, LC_ALL="C.UTF-8") | environment)
        self.addCleanup(terminal.close)
        terminal.wait_for("> ")
        return terminal

    def command(self):
        """For a shell, to chat without a history."""
        return f"{BIN}/engram chat --session s --no-history --server {self.server.address}"

    def texts(self):
        return [request.text.strip() for request in self.server.requests]

    def history_file(self):
        return pathlib.Path(self.state.name, "engram", "chat_history")

    def test_a_line_can_be_edited(self):
        chat = self.chat()
        chat.type("worl" + CTRL_A + "hello X" + BACKSPACE + LEFT + "," + "\r")
        chat.wait_for("answer 1")
        self.assertEqual(self.texts(), ["hello, worl"])

    def test_characters_of_any_script_are_sent_as_typed_and_deleted_as_one(self):
        # Also where the locale is none: the server takes UTF-8 only.
        for locale in ("C.UTF-8", "C"):
            with self.subTest(locale):
                self.server.requests.clear()
                self.server.version = 0
                chat = self.chat(LC_ALL=locale)
                chat.type("näive 日本語é" + BACKSPACE + LEFT + BACKSPACE + "x\r")
                chat.wait_for("answer 1")
                self.assertEqual(self.texts(), ["näive 日x語"])

    def test_lines_come_back_in_this_chat_and_in_the_next(self):
        chat = self.chat()
        for number, line in enumerate(("one", "zwö"), 1):
            chat.type(line + "\r")
            chat.wait_for(f"answer {number}")
        chat.wait_for("> ")
        chat.type(UP + UP + "!\r")
        chat.wait_for("answer 3")
        self.assertEqual(self.texts(), ["one", "zwö", "one!"])
        chat.wait_for("> ")
        chat.type(CTRL_D)
        self.assertEqual(chat.wait_for_end(), 0)
        self.assertEqual(self.history_file().read_text(), "one\nzwö\none!\n")
        self.assertEqual(stat.S_IMODE(self.history_file().stat().st_mode), 0o600)

        chat = self.chat()
        chat.type(UP + UP + "\r")
        chat.wait_for("answer 4")
        self.assertEqual(self.texts()[-1], "zwö")

    def test_no_line_is_kept_if_that_is_asked_for(self):
        for flags in (["--no-history"], ["--history", ""]):
            chat = self.chat(*flags)
            chat.type("secret\r")
            chat.wait_for("answer")
            chat.wait_for("> ")
            chat.type(CTRL_D)
            self.assertEqual(chat.wait_for_end(), 0)
            self.assertFalse(self.history_file().exists())

    def test_a_history_that_cannot_be_kept_is_told_once_and_the_chat_goes_on(self):
        chat = self.chat("--history", "/dev/null/history")
        chat.type("one\r")
        chat.wait_for("chat history /dev/null/history: Not a directory")
        chat.wait_for("answer 1")
        chat.type("two\r")
        chat.wait_for("answer 2")
        self.assertNotIn("history", chat.seen)

    def test_ctrl_c_in_an_answer_stops_the_answer_and_the_chat_goes_on(self):
        chat = self.chat()
        chat.type("hang\r")
        chat.wait_for("begun")
        chat.type(CTRL_C)
        chat.wait_for("> ")
        # The server may still be at the turn that was cancelled.
        self.server.refuse_next = 2
        chat.type("and now\r")
        chat.wait_for("answer 2")
        self.assertEqual(self.server.requests[1].expected_version, 1)
        chat.wait_for("> ")
        chat.type(CTRL_D)
        self.assertEqual(chat.wait_for_end(), 0)

    def test_ctrl_c_at_the_prompt_drops_the_line_and_twice_ends_the_chat(self):
        chat = self.chat()
        chat.type("not this" + CTRL_C)
        chat.wait_for("once more")
        chat.wait_for("> ")
        chat.type("but this\r")
        chat.wait_for("answer 1")
        self.assertEqual(self.texts(), ["but this"])
        chat.wait_for("> ")
        chat.type(CTRL_C)
        chat.wait_for("once more")
        chat.wait_for("> ")
        chat.type(CTRL_C)
        self.assertEqual(chat.wait_for_end(), 130)

    def test_the_terminal_is_as_before_however_the_chat_ends(self):
        for end in (CTRL_D, CTRL_C + CTRL_C, signal.SIGTERM, signal.SIGINT):
            with self.subTest(end):
                # A shell stays on the terminal to tell its settings.
                terminal = Terminal(
                    ["bash", "-c", f"before=$(stty -g); {self.command()}; "
                     "code=$?; [ \"$before\" = \"$(stty -g)\" ] && echo same $code || echo other $code"],
                    dict(os.environ, HOME=self.state.name))
                self.addCleanup(terminal.close)
                terminal.wait_for("> ")
                if isinstance(end, str):
                    for key in end:
                        terminal.type(key)
                        if key == CTRL_C and end.startswith(CTRL_C):
                            terminal.wait_for(r"\^C")
                else:
                    children = pathlib.Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split()
                    os.kill(int(children[0]), end)
                found = terminal.wait_for(r"(same|other) (\d+)")
                self.assertEqual(found.groups(), ("same", "0" if end == CTRL_D else "130"))

    def test_ctrl_z_stops_the_program_and_the_line_is_still_there(self):
        shell = Terminal(["bash", "--norc", "--noprofile", "-i"], dict(os.environ, HOME=self.state.name, PS1="$ "))
        self.addCleanup(shell.close)
        shell.wait_for(r"\$ ")
        shell.type(self.command() + "\r")
        shell.wait_for("version 0")
        shell.wait_for("> ")
        shell.type("half a" + CTRL_Z)
        shell.wait_for("Stopped")
        shell.wait_for(r"\$ ")
        shell.type("fg\r")
        shell.wait_for("half a")
        shell.type(" line\r")
        shell.wait_for("answer 1")
        self.assertEqual(self.texts(), ["half a line"])


if __name__ == "__main__":
    unittest.main()
