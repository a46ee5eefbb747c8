"""Where attacks take place: a server's program of its own, a bystander who goes on
asking it small things, and a record of what the attack costs the two.
"""
import contextlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import grpc

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
from server_program import start_server  # noqa: E402

MIB = 1 << 20
# No call, and no wait for a process, takes longer.
LIMIT = 120
RECALL = "mamba-induction"  # answers in some tenths of a millisecond a token
ENGLISH = "mamba-english"
ATTENTION = "attention-induction-t256"  # a session of it grows by 1 KB a token


class Refuted(Exception):
    """The server did not do what it promises."""


def expect(condition, message):
    if not condition:
        raise Refuted(message)


class Server:
    """engram-server on free ports, with one thread a model."""

    def __init__(self, ground, *flags, models=(RECALL, ENGLISH), read_log=True, descriptors=None, address_space=None,
                 key=None):
        limits = [f"--nofile={descriptors}"] if descriptors else []
        limits += [f"--as={address_space}"] if address_space else []
        self.ground = ground
        # What a call shows of who makes it.
        self.metadata = [("authorization", f"Bearer {key}")] if key else []
        served = [f"--model={model}" if "=" in model else f"--model={model}={ground.zoo / model}" for model in models]
        self.process, self.address, self.metrics_address = start_server(
            ground.binaries, "--threads", "1", *flags, *served, under=("prlimit", *limits) if limits else (),
            stderr=subprocess.PIPE)
        self.log = bytearray()
        self.reader = threading.Thread(target=self._read_log, daemon=True)
        if read_log:
            self.reader.start()
        if self.address is None:
            self.process.wait(LIMIT)
            raise Refuted(f"the server did not start (exit {self.process.returncode}): {self.text()[-500:]}")

    def _read_log(self):
        while chunk := self.process.stderr.read1(1 << 16):
            self.log += chunk

    def text(self):
        """What it has logged so far, as far as that is read; all of it once it has ended."""
        if not self.alive():
            if self.reader.ident is None:
                self.reader.start()
            self.reader.join()
        return self.log.decode(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        if self.reader.is_alive():
            self.reader.join()
        self.process.stderr.close()

    def channel(self, *options):
        """A connection of its own."""
        return grpc.insecure_channel(self.address, options=[
            ("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1), *options])

    def metric(self, name, label=""):
        """Its sum over all labels, or where one is this: 'code="OK"'."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=LIMIT) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[{{ ]", line) and label in line)

    def alive(self):
        return self.process.poll() is None

    def memory(self, field="VmRSS"):
        """Bytes that it has in RAM; "VmHWM": at most so far."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{field}:\s+(\d+) kB", status)
        expect(found is not None, "the server has ended")
        return int(found.group(1)) << 10

    def threads(self):
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()))

    def terminate(self):
        """SIGTERM; the seconds until it has ended, and its exit code."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(LIMIT)
        expect(not self.alive(), f"it still ran {LIMIT} s after SIGTERM")
        return time.monotonic() - begin, self.process.returncode


class Bystander:
    """A process of its own (bystander.py) that asks small things until it is told to stop."""

    def __init__(self, server, model):
        self.process = subprocess.Popen(
            [sys.executable, HERE / "bystander.py", server.address, model, *map("=".join, server.metadata)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(server.ground.stubs)})
        expect(self.process.stdout.readline() == "ready\n", "the bystander got no first answer")

    def measure(self):
        """What it saw since the last time: see bystander.py."""
        self.process.stdin.write("tell\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Ground:
    def __init__(self, binaries, stubs, zoo, full):
        self.binaries, self.stubs, self.zoo, self.full = binaries, stubs, zoo, full
        self.rows = []

    def size(self, short, full):
        return full if self.full else short

    def server(self, *flags, **options):
        return Server(self, *flags, **options)

    @contextlib.contextmanager
    def watched(self, server, model=RECALL, worst=5.0, growth=512 * MIB, failures=0):
        """What is done within is an attack: no answer to a bystander may take longer than `worst` seconds, no more
        than `failures` of its calls may fail, and the server may grow by `growth` bytes at most."""
        bystander = Bystander(server, model)
        try:
            pause(1)
            before = bystander.measure()
            memory = [server.memory()]
            error = None
            try:
                yield
            except Refuted as refuted:
                error = refuted
            expect(server.alive(), f"the server ended ({server.process.poll()}): {server.text()[-600:]}")
            during = bystander.measure()
            memory += [server.memory("VmHWM"), server.memory()]
        finally:
            bystander.stop()
        self.rows.append((before, during, memory))
        if error is not None:
            raise error
        for call in ("generate", "health"):
            expect(during[call]["worst"] <= worst,
                   f"a bystander's {call} took {during[call]['worst']:.2f} s, limit {worst} s")
        expect(during["failures"] <= failures, f"{during['failures']} calls of a bystander failed: {during['codes']}")
        expect(memory[1] - memory[0] <= growth,
               f"memory grew by {(memory[1] - memory[0]) // MIB} MiB, limit {growth // MIB} MiB")


def pause(seconds):
    """A span of an attack or a measurement, never a wait for something to come true."""
    threading.Event().wait(seconds)


def eventually(condition, seconds=LIMIT):
    """Whether it comes true; it is asked again and again."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        pause(0.02)
    return True
