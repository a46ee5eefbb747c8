"""A program on a terminal of its own (a pty), for tests of what people see."""
import codecs
import os
import pty
import re
import select
import subprocess
import time

ESCAPE = re.compile("\x1b\\[[0-9;?]*[A-Za-z]|\x1b[=>]")  # Colours and movements of the cursor.
PATIENCE_S = 60  # Far more than anything takes; a machine may stall.


class Terminal:
    """Runs a command on a pty of 80 columns. Close it in the end."""

    def __init__(self, command, environment):
        self.descriptor, theirs = pty.openpty()
        # Not pty.fork(): a fork runs what gRPC has registered for it, which aborts where another thread is just
        # ending gRPC. setsid becomes the command, with the same process id.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=theirs, stdout=theirs, stderr=theirs,
            env=dict(environment, TERM="xterm", COLUMNS="80", LINES="24"))
        os.close(theirs)
        self.pid = self.process.pid
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")  # A read may end within a character.
        self.seen = ""

    def type(self, text):
        os.write(self.descriptor, text.encode())

    def _read(self, timeout):
        """False when the program has closed the terminal."""
        ready, _, _ = select.select([self.descriptor], [], [], timeout)
        if not ready:
            return True
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:
            return False
        self.seen += self.decoder.decode(data)
        return bool(data)

    def wait_for(self, pattern):
        """Reads until `pattern` has come, and forgets what came up to there."""
        end = time.monotonic() + PATIENCE_S
        while True:
            self.seen = ESCAPE.sub("", self.seen)
            if found := re.search(pattern, self.seen):
                self.seen = self.seen[found.end():]
                return found
            if time.monotonic() > end or not self._read(1):
                raise AssertionError(f"{pattern!r} did not come; seen: {self.seen!r}")

    def wait_for_end(self):
        """Reads to the end and returns the exit code (negative: the signal)."""
        end = time.monotonic() + PATIENCE_S
        while self._read(1):
            if time.monotonic() > end:
                raise AssertionError(f"the program goes on; seen: {self.seen!r}")
        return self.process.wait()

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.descriptor)
