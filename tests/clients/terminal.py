"""A program on a terminal of its own (a pty), for tests of what people see."""
import codecs
import os
import pty
import re
import select
import signal
import time

ESCAPE = re.compile("\x1b\\[[0-9;?]*[A-Za-z]|\x1b[=>]")  # Colours and movements of the cursor.
PATIENCE_S = 60  # Far more than anything takes; a machine may stall.


class Terminal:
    """Runs a command on a pty of 80 columns. Close it in the end."""

    def __init__(self, command, environment):
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, dict(environment, TERM="xterm", COLUMNS="80", LINES="24"))
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")  # A read may end within a character.
        self.seen = ""
        self.exit_code = None

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
        self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.exit_code

    def close(self):
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.descriptor)
