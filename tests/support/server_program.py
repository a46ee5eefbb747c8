"""engram-server as a program on free ports of loopback, and programs beside it, for tests in Python."""
import http.client
import json
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 180  # a hang becomes a failure
# A server that is small, and ends at once.
MODEL = ("--model", f"m={ROOT}/model/zoo/mamba-induction", "--threads", "1", "--drain-timeout", "0s")
# Of a call that it answers with 7.
PROMPT = ("--prompt", "3 11 0 => 7 5 12 2 9 =>", "--max-tokens", "1")
# For LSAN_OPTIONS of all programs that look for a server by its name, in the build with AddressSanitizer.
C_ARES_LEAKS = f"suppressions={ROOT}/tests/integration/c_ares.supp:print_suppressions=0"


def eventually(condition, what):
    """The first value of `condition()` that is true; asks until then."""
    pause = threading.Event()
    end = time.monotonic() + LIMIT_SECONDS
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {LIMIT_SECONDS} s: {what}")
        pause.wait(0.02)


def run(*command, **variables):
    """A program that ends by itself, in the source folder, with `variables` besides those of the environment."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=LIMIT_SECONDS,
                          cwd=ROOT, env=dict(os.environ, **{name: str(value) for name, value in variables.items()}))


def private_file(path, text):
    """A file that only its owner can read, as clients want those of keys; its path."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def start_server(binaries, *flags, under=(), **arguments):
    """Starts it; its process, and the addresses of its gRPC port and its metrics port once it serves: both None if it
    ended before. `under` is a command that becomes the server, `arguments` are those of Popen besides."""
    addresses = ("--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0")
    process = subprocess.Popen([*under, binaries / "engram-server", *addresses, *flags], stdout=subprocess.PIPE,
                               **arguments)
    listening = re.match(rb"listening grpc=(\S+) metrics=(\S+)", process.stdout.readline())
    addresses = (address.decode() for address in listening.groups()) if listening else (None, None)
    return process, *addresses


class LoggedServer:
    """One whose log can be read, while it runs and after. Its addresses are `grpc` and `metrics`, both None if it ended
    at once."""

    def __init__(self, binaries, *flags):
        self._file = tempfile.TemporaryFile()
        self._code = None
        self.process, self.grpc, self.metrics = start_server(binaries, *flags, stderr=self._file)

    def stop(self):
        """Ends it, unless it has ended; its exit code."""
        if self._code is None:
            self.process.terminate()
            self._code = self.process.wait(timeout=LIMIT_SECONDS)
            self.process.stdout.close()
            self._whole = self.log_text()
            self._file.close()
        return self._code

    def ask(self, path, headers=None, settings=None):
        """Status and text of a page of the metrics port; by TLS if there are `settings`."""
        port = int(self.metrics.rsplit(":", 1)[1])
        # Whatever it listens on. Its certificate has this name.
        connection = (http.client.HTTPSConnection("localhost", port, context=settings, timeout=LIMIT_SECONDS)
                      if settings else http.client.HTTPConnection("localhost", port, timeout=LIMIT_SECONDS))
        try:
            connection.request("GET", path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def log_text(self):
        if self._file.closed:
            return self._whole
        # The server writes where this file is, so it must not be moved.
        return os.pread(self._file.fileno(), os.fstat(self._file.fileno()).st_size, 0).decode()

    def log(self):
        """Its lines, but for one that is still being written."""
        text = self.log_text()
        return [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]
