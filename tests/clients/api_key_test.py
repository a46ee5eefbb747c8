"""The key of a client, from end to end: it comes with every call by TLS or on this machine, and goes nowhere else.

The server is one that only keeps what metadata it was sent.

Usage: api_key_test.py SOURCE_FOLDER BINARY_FOLDER STUBS_FOLDER
"""
import concurrent.futures
import os
import pathlib
import socket
import sys
import tempfile
import threading
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
BIN = pathlib.Path(sys.argv.pop(1)).resolve()
STUBS = pathlib.Path(sys.argv.pop(1)).resolve()
sys.path[:0] = [str(ROOT / "tests/support"), str(STUBS)]

import grpc  # noqa: E402: found only now
from engram.v1 import generation_pb2, models_pb2, sessions_pb2  # noqa: E402
from server_program import C_ARES_LEAKS, run  # noqa: E402
from test_certificates import Authority  # noqa: E402

os.environ["LSAN_OPTIONS"] = C_ARES_LEAKS
KEY = "a-key-that-nobody-may-see"
PYTHON = ("/usr/bin/python3", ROOT / "clients/python/client.py")


def stream(request, context):
    yield generation_pb2.GenerateResponse(started=generation_pb2.Started(seed=1))
    yield generation_pb2.GenerateResponse(token=generation_pb2.Token(index=0, id=1, text="a"))
    yield generation_pb2.GenerateResponse(
        completed=generation_pb2.Completed(finish_reason=generation_pb2.LENGTH, version=1))


class Server(grpc.GenericRpcHandler):
    """What it was sent is in `calls`: name of the method, and metadata. Refuses with `refusal`, if there is one."""

    def __init__(self, address="127.0.0.1:0", pair=None):
        self.calls = []
        self.refusal = None
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        self.server.add_generic_rpc_handlers([self])
        if pair is None:
            port = self.server.add_insecure_port(address)
        else:
            port = self.server.add_secure_port(address, grpc.ssl_server_credentials(
                [(pair.key.read_bytes(), pair.certificate.read_bytes())]))
        self.address = address if address.startswith("unix:") else f"{address.rsplit(':', 1)[0]}:{port}"
        self.server.start()

    def service(self, details):
        method = details.method.rsplit("/", 1)[1]
        self.calls.append((method, dict(details.invocation_metadata)))
        if self.refusal is not None:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: context.abort(*self.refusal))
        if method == "Generate":
            return grpc.unary_stream_rpc_method_handler(
                stream, generation_pb2.GenerateRequest.FromString, generation_pb2.GenerateResponse.SerializeToString)
        answer = {
            "List": models_pb2.ListModelsResponse(models=[models_pb2.ModelInfo(name="m")]),
            "Tokenize": models_pb2.TokenizeResponse(token_ids=[3]),
            "Check": models_pb2.ListModelsResponse(),
            "Score": generation_pb2.ScoreResponse(),
        }.get(method, sessions_pb2.Session(session_id="s"))
        if details.method == "/engram.v1.Models/Get":
            answer = models_pb2.ModelInfo(name="m", vocabulary_size=9)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: answer,
                                                   response_serializer=lambda message: message.SerializeToString())

    def stop(self):
        self.server.stop(None).wait()


class ApiKeyTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.authority = Authority(cls.folder.name, "authority")
        cls.pair = cls.authority.issue("server")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def start(self, *arguments):
        server = Server(*arguments)
        self.addCleanup(server.stop)
        return server

    def key_file(self, text=KEY + "\n", mode=0o600, name="key"):
        file = pathlib.Path(self.folder.name) / name
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def run_program(self, *command, **variables):
        done = run(*command, PYTHONPATH=STUBS, **variables)
        # Whatever becomes of it.
        self.assertNotIn(KEY, done.stdout + done.stderr)
        return done

    def check_runs(self, *command, **variables):
        done = self.run_program(*command, **variables)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}\n{done.stderr}")
        return done

    def check_refused(self, words, *command, **variables):
        done = self.run_program(*command, **variables)
        self.assertEqual(done.returncode, 1, f"{command}\n{done.stdout}\n{done.stderr}")
        self.assertIn(words, " ".join(done.stderr.split()))

    def check_all_calls_had_it(self, server, method_called):
        self.assertIn(method_called, [method for method, _ in server.calls])
        for method, metadata in server.calls:
            self.assertEqual(metadata.get("authorization"), f"Bearer {KEY}", method)

    def test_every_call_of_every_program_shows_it(self):
        for pair, flags, variables in ((None, (), {}), (self.pair, ("--ca", self.authority.certificate),
                                                        {"ENGRAM_CA": self.authority.certificate})):
            with self.subTest(tls=bool(flags)):
                server = self.start("127.0.0.1:0", pair)
                flags = ("--server", server.address, "--api-key-file", self.key_file(), *flags)
                self.check_runs(BIN / "engram", "models", *flags)
                self.check_runs(BIN / "engram", "generate", "--prompt", "x", *flags)
                self.check_runs(BIN / "engram", "score", "--text", "x", *flags)
                self.check_runs(BIN / "engram", "sessions", "get", "s", *flags)
                self.check_runs(BIN / "engram-bench", "--requests", 2, "--connections", 2, *flags)
                # Symbols of its own it does not find, but it asks.
                self.run_program(BIN / "engram-eval", "--task", "induction-head", "--count", 1, *flags)
                self.check_runs(*PYTHON, server.address, "m", "x", ENGRAM_API_KEY_FILE=self.key_file(), **variables)
                self.check_all_calls_had_it(server, "List")
                self.assertLessEqual({"List", "Get", "Generate", "Score", "Tokenize"},
                                     {method for method, _ in server.calls})

    def test_the_variable_stands_for_the_flag_and_the_flag_goes_first(self):
        server = self.start()
        self.check_runs(BIN / "engram", "models", ENGRAM_SERVER=server.address, ENGRAM_API_KEY_FILE=self.key_file())
        self.check_all_calls_had_it(server, "List")
        self.check_runs(BIN / "engram", "models", "--api-key-file", self.key_file("other\r\n", name="other"),
                        ENGRAM_SERVER=server.address, ENGRAM_API_KEY_FILE=self.key_file())
        self.assertEqual(server.calls[-1][1]["authorization"], "Bearer other")

    def test_without_one_nothing_is_shown(self):
        server = self.start()
        self.check_runs(BIN / "engram", "models", "--server", server.address)
        self.check_runs(*PYTHON, server.address, "m", "x")
        for method, metadata in server.calls:
            self.assertNotIn("authorization", metadata, method)
            self.assertNotIn("engram-tenant", metadata, method)

    def test_health_is_asked_without_one(self):
        server = self.start()
        self.run_program(BIN / "engram", "health", "--server", server.address, "--api-key-file", self.key_file())
        self.assertEqual([method for method, _ in server.calls], ["Check"])
        self.assertNotIn("authorization", server.calls[0][1])

    def test_every_address_of_loopback_takes_it_in_plain(self):
        socket_file = f"unix:{self.folder.name}/socket"
        flags = ("--api-key-file", self.key_file())
        for bound, called in (("127.0.0.1:0", "localhost:{}"), ("127.0.0.2:0", "127.0.0.2:{}"),
                              ("127.0.0.1:0", "dns:///localhost:{}"), ("127.0.0.1:0", "ipv4:127.0.0.1:{}"),
                              (socket_file, socket_file)):
            with self.subTest(called):
                server = self.start(bound)
                address = called.format(server.address.rsplit(":", 1)[1])
                self.check_runs(BIN / "engram", "models", "--server", address, *flags)
                self.check_all_calls_had_it(server, "List")

    def test_it_is_never_sent_in_plain_over_a_network(self):
        flags = ("--api-key-file", self.key_file())
        words = "which is not this machine's own loopback: speak TLS (--tls, or --ca FILE"
        for address in ("192.0.2.1:8001", "engram.example", "ipv4:127.0.0.1:1,192.0.2.1:1", "localhost.example",
                        "dns://192.0.2.1/localhost:1", "[::ffff:192.0.2.1]:1", "0.0.0.0:1"):
            with self.subTest(address):
                self.check_refused(words, BIN / "engram", "models", "--server", address, *flags)
        for program, more in (("engram", ("generate", "--prompt", "x")), ("engram-bench", ()),
                              ("engram-eval", ("--task", "induction-head"))):
            self.check_refused(words, BIN / program, *more, "--server", "192.0.2.1:1", *flags)
        self.check_refused("a key is not sent in plain to 192.0.2.1:1: speak TLS", *PYTHON, "192.0.2.1:1", "m", "x",
                           ENGRAM_API_KEY_FILE=self.key_file())
        # Said, it is no reason to go on in plain.
        self.check_refused(words, BIN / "engram", "models", "--server", "192.0.2.1:1", "--tls=false",
                           "--ca", self.authority.certificate, *flags)

    def test_no_proxy_is_told_it(self):
        server = self.start()
        heard = []
        listener = socket.create_server(("127.0.0.1", 0))

        def listen():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                heard.append(connection)

        thread = threading.Thread(target=listen)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(listener.close)
        self.addCleanup(listener.shutdown, socket.SHUT_RDWR)
        proxy = "http://127.0.0.1:%d" % listener.getsockname()[1]
        self.check_runs(BIN / "engram", "models", "--server", server.address, "--api-key-file", self.key_file(),
                        http_proxy=proxy, grpc_proxy=proxy)
        self.check_runs(*PYTHON, server.address, "m", "x", ENGRAM_API_KEY_FILE=self.key_file(), http_proxy=proxy,
                        grpc_proxy=proxy)
        self.check_all_calls_had_it(server, "List")
        self.assertEqual(heard, [])

    def test_a_tls_port_that_is_called_in_plain_is_told_so(self):
        server = self.start("127.0.0.1:0", self.pair)
        self.check_refused("speaks TLS, and this client does not", BIN / "engram", "models", "--server", server.address,
                           "--api-key-file", self.key_file())
        self.assertEqual(server.calls, [])

    def test_what_is_no_key_is_refused_by_name_and_reason(self):
        server = self.start()
        missing = pathlib.Path(self.folder.name) / "missing"
        for file, words in ((self.key_file("", name="empty"), "is empty"),
                            (self.key_file("\n", name="line"), "is empty"),
                            (self.key_file(f"{KEY}\nmore\n", name="lines"), "has several lines"),
                            (self.key_file(f"\n{KEY}", name="second"), "has several lines"),
                            (self.key_file(f"{KEY} {KEY}", name="words"),
                             f"has a character that no key has: byte {len(KEY) + 1}"),
                            (self.key_file("x" * 4097, name="long"), "has more than 4096 bytes"),
                            ("/dev/zero", "has more than 4096 bytes"),
                            (missing, "cannot be read: No such file or directory"),
                            (self.folder.name, "cannot be read: Is a directory")):
            with self.subTest(file):
                self.check_refused(f"the key file {file} {words}", BIN / "engram", "models", "--server", server.address,
                                   "--api-key-file", file)
        for name in ("empty", "lines", "words", "missing"):
            self.check_refused(f"the key file {self.folder.name}/{name} ", *PYTHON, server.address, "m", "x",
                               ENGRAM_API_KEY_FILE=f"{self.folder.name}/{name}")
        self.assertEqual(server.calls, [])

    def test_a_file_that_others_can_read_is_warned_of(self):
        server = self.start()
        commands = ((BIN / "engram", "models"), (BIN / "engram-bench", "--requests", 1),
                    (*PYTHON, server.address, "m", "x"))
        for mode, warns in ((0o600, False), (0o400, False), (0o640, True), (0o604, True)):
            for command in commands:
                done = self.check_runs(*command, ENGRAM_SERVER=server.address,
                                       ENGRAM_API_KEY_FILE=self.key_file(mode=mode))
                with self.subTest(command=command, mode=mode):
                    self.assertEqual("can be read by others" in done.stderr, warns, done.stderr)
                    self.assertEqual("chmod 600 it" in done.stderr, warns)

    def test_operators_name_the_tenant(self):
        server = self.start()
        flags = ("--server", server.address, "--api-key-file", self.key_file())
        self.check_runs(BIN / "engram", "models", *flags, "--tenant", "acme")
        self.check_runs(BIN / "engram", "models", *flags, ENGRAM_TENANT="acme")
        self.check_runs(*PYTHON, server.address, "m", "x", ENGRAM_API_KEY_FILE=self.key_file(), ENGRAM_TENANT="acme")
        for method, metadata in server.calls:
            self.assertEqual(metadata.get("engram-tenant"), "acme", method)
        self.check_refused("--tenant takes a name of up to 128 visible characters", BIN / "engram", "models", *flags,
                           "--tenant", "two words")
        self.check_refused("--tenant is for operators, who show a key: give --api-key-file FILE", BIN / "engram",
                           "models", "--server", server.address, "--tenant", "acme")

    def test_who_is_refused_is_told_what_to_do(self):
        server = self.start()
        for code, message, words in (
                (grpc.StatusCode.UNAUTHENTICATED, "no key: send metadata authorization: Bearer KEY",
                 "name the file of your key with --api-key-file FILE or $ENGRAM_API_KEY_FILE"),
                (grpc.StatusCode.UNAUTHENTICATED, "unknown key", "ask who runs the server for a new one"),
                (grpc.StatusCode.UNAUTHENTICATED, 'key "mine" expired at 2026-01-01', "for a new one"),
                (grpc.StatusCode.PERMISSION_DENIED, 'key "mine" has no role "sessions"', "to give yours the role"),
                (grpc.StatusCode.PERMISSION_DENIED, "engram-tenant: not yours", "leave out --tenant"),
                (grpc.StatusCode.PERMISSION_DENIED, "forbidden", "a proxy or another program?")):
            server.refusal = (code, message)
            with self.subTest(message):
                self.check_refused(f"{code.name}: {message} ", BIN / "engram", "models", "--server", server.address)
                self.check_refused(words, BIN / "engram", "models", "--server", server.address)
                self.check_refused(f"{message} ", *PYTHON, server.address, "m", "x")


if __name__ == "__main__":
    unittest.main()
