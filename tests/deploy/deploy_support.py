"""What the tests of deploy/ share: programs on free ports of loopback."""
import pathlib
import signal
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import urllib.request

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
BIN = pathlib.Path(sys.argv.pop(1)).resolve()
STUBS = pathlib.Path(sys.argv.pop(1)).resolve()
sys.path[:0] = [str(STUBS), str(ROOT / "tests/support")]

import grpc  # noqa: E402: found only now
from server_program import LIMIT_SECONDS, MODEL, start_server  # noqa: E402


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


class Credentials:
    """What deploy/make-credentials makes, in a folder of its own."""

    def __init__(self):
        self.made = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.made.name)
        self.server = self.folder / "server"
        self.authority = self.folder / "ca.crt"
        subprocess.run([ROOT / "deploy/make-credentials", "--folder", self.folder], check=True,
                       stdout=subprocess.DEVNULL)

    def remove(self):
        self.made.cleanup()

    def flags(self):
        """Those of a server that uses them."""
        return ("--tls-certificate", self.server / "server.crt", "--tls-key", self.server / "server.key", "--keys",
                self.server / "keys.json")

    def channel(self, address, key="user"):
        """A channel of Python's gRPC on which every call shows a key; without it, none does."""
        credentials = grpc.ssl_channel_credentials(self.authority.read_bytes())
        if key is not None:
            text = (self.folder / f"{key}.key").read_text().strip()
            credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(text))
        return grpc.secure_channel(address, credentials)

    def page(self, url, key="metrics"):
        """What an HTTP port answers."""
        settings = ssl.create_default_context(cafile=self.authority)
        request = urllib.request.Request(url)
        if key is not None:
            request.add_header("Authorization", f"Bearer {(self.folder / f'{key}.key').read_text().strip()}")
        with urllib.request.urlopen(request, timeout=LIMIT_SECONDS, context=settings) as page:
            return page.read().decode()


class EngramServer(Process):
    """mamba-induction as "m", on free ports."""

    def __init__(self, *flags):
        process, self.grpc, metrics = start_server(BIN, *MODEL, "--request-log", "off", *flags)
        super().__init__(process)
        if self.grpc is None:
            raise AssertionError(f"engram-server ended with {self.stop()}")
        self.metrics = metrics.replace("0.0.0.0", "127.0.0.1")
