"""Runs the commands of README.md and clients/README.md against a server.

Every ```sh block is run line by line as a user would type it, in the source
folder, with ENGRAM_SERVER naming a server on a free port; each command must end
with 0 and print something. The C++ example is compiled by the build and run
here.

Usage: readme_test.py SOURCE_FOLDER BINARY_FOLDER STUBS_FOLDER
"""
import os
import pathlib
import re
import signal
import subprocess
import sys
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
BIN = pathlib.Path(sys.argv.pop(1)).resolve()
STUBS = pathlib.Path(sys.argv.pop(1)).resolve()


def commands(document):
    for block in re.findall(r"^```sh\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S):
        for line in block.splitlines():
            line = line.strip()
            if line and not line.startswith(("#", "export PATH")):
                yield line


class ReadmeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = subprocess.Popen(
            [BIN / "engram-server", "--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0",
             "--request-log", "off"],
            stdout=subprocess.PIPE, text=True)
        line = cls.server.stdout.readline()
        cls.address = re.match(r"listening grpc=(\S+) metrics=(\S+)", line).group(1)
        cls.environment = dict(os.environ, ENGRAM_SERVER=cls.address, PATH=f"{BIN}:{os.environ['PATH']}")

    @classmethod
    def tearDownClass(cls):
        cls.server.send_signal(signal.SIGTERM)
        assert cls.server.wait(timeout=60) == 0
        cls.server.stdout.close()

    def run_command(self, command):
        # The documented port stands for the server of this test.
        command = re.sub(r"localhost:\d+", self.address, command)
        command = command.replace("build/release/python", str(STUBS))
        # A chat reads its lines from the terminal; here there is none.
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=self.environment, text=True,
                              input="In the beginning\n/quit\n", capture_output=True, timeout=120)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}\n{done.stderr}")
        self.assertTrue(done.stdout.strip(), f"{command} printed nothing\n{done.stderr}")
        return done.stdout

    def test_commands_of_the_readme_work_as_written(self):
        lines = list(commands("README.md"))
        self.assertGreater(len(lines), 8)
        for line in lines:
            with self.subTest(line):
                self.run_command(line)

    def test_commands_of_the_clients_readme_work_as_written(self):
        lines = list(commands("clients/README.md"))
        self.assertGreater(len(lines), 4)
        for line in lines:
            with self.subTest(line):
                self.run_command(line.replace("--duration 30s", "--duration 2s"))

    def test_the_induction_example_gives_the_answer_that_the_readme_tells(self):
        line = next(line for line in commands("README.md") if "mamba-induction" in line)
        self.assertEqual(self.run_command(line).strip(), "7")

    def test_the_example_program_runs(self):
        self.assertGreater(len(self.run_command("engram-example " + self.address).strip()), 20)

    def test_the_code_of_the_readme_is_that_of_the_example(self):
        block = re.search(r"^```cpp\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S).group(1)
        example = re.sub(r"\s+", "", (ROOT / "clients/cpp/example.cc").read_text())
        for statement in ("request.set_model(\"mamba-english\");", "request.set_session_id(\"example\");",
                          "request.mutable_stopping()->set_max_tokens(40);", "client.Generate("):
            self.assertIn(statement, block)
            self.assertIn(statement, example)


if __name__ == "__main__":
    unittest.main()
