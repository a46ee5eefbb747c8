"""What the tests of deploy/ share: programs on free ports of loopback."""
import pathlib
import signal
import shutil
import socket
import sys
import threading
import time

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
BIN = pathlib.Path(sys.argv.pop(1)).resolve()
STUBS = pathlib.Path(sys.argv.pop(1)).resolve()
sys.path[:0] = [str(STUBS), str(ROOT / "tests/support")]

from server_program import start_server  # noqa: E402: found only now

LIMIT_SECONDS = 180  # a hang becomes a failure


def program(name):
    """The path of an installed program that a test cannot do without."""
    for path in (shutil.which(name), f"/usr/sbin/{name}"):
        if path and pathlib.Path(path).exists():
            return path
    raise AssertionError(f"{name} is not installed: scripts/setup test does that")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def accepts(address):
    """Whether somebody listens there."""
    host, port = address.split(":")
    with socket.socket() as tried:
        return tried.connect_ex((host, int(port))) == 0


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
        pause.wait(0.05)


class Process:
    """A program that runs until the end of the test."""

    def __init__(self, process):
        self.process = process

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=LIMIT_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


class EngramServer(Process):
    """mamba-induction as "m", on free ports."""

    def __init__(self, *flags):
        process, self.grpc, self.metrics = start_server(
            BIN, "--model", f"m={ROOT}/model/zoo/mamba-induction", "--threads", "1", "--drain-timeout", "0s",
            "--request-log", "off", *flags)
        super().__init__(process)
        if self.grpc is None:
            raise AssertionError(f"engram-server ended with {self.stop()}")
