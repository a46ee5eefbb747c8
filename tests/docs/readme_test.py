"""Runs the commands of README.md and clients/README.md against a server.

Every ```sh block is run line by line as a user would type it, in the source
folder, with ENGRAM_SERVER naming a server on a free port; each command must end
with 0 and print something, and exactly what follows it as "# prints: TEXT" if
that does. Every ```cpp block is compiled, as the example is, and run. Every file
that the documents link to exists.

Usage: readme_test.py SOURCE_FOLDER BINARY_FOLDER STUBS_FOLDER
"""
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
BIN = pathlib.Path(sys.argv.pop(1)).resolve()
STUBS = pathlib.Path(sys.argv.pop(1)).resolve()
sys.path.insert(0, str(ROOT / "tests/support"))

from server_program import start_server  # noqa: E402: found only now

# What measures for long need not do so here.
SHORTER = {"--duration 30s": "--duration 2s", "--prompt-tokens 64 --time": "--prompt-tokens 8 --time"}
HANGS_AFTER_S = 600  # More than any command takes under AddressSanitizer on a busy machine.


def blocks(document, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S)


def commands(document):
    """Each command, with what it prints if the document tells."""
    for block in blocks(document, "sh"):
        lines = [line.strip() for line in block.splitlines()]
        for line, after in zip(lines, lines[1:] + [""]):
            if line and not line.startswith(("#", "export PATH")):
                yield line, after.removeprefix("# prints: ") if after.startswith("# prints: ") else None


class ReadmeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server, cls.address, _ = start_server(BIN, "--request-log", "off")
        assert cls.address, f"engram-server ended with {cls.server.wait()}"
        cls.environment = dict(os.environ, ENGRAM_SERVER=cls.address, PATH=f"{BIN}:{os.environ['PATH']}")

    @classmethod
    def tearDownClass(cls):
        cls.server.send_signal(signal.SIGTERM)
        assert cls.server.wait(timeout=60) == 0
        cls.server.stdout.close()

    def run_command(self, command):
        # The documented port stands for the server of this test.
        command = re.sub(r"localhost:\d+", self.address, command)
        command = command.replace("build/release/python", str(STUBS)).replace("build/release/bin", str(BIN))
        # A chat reads its lines from the terminal; here there is none.
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=self.environment, text=True,
                              input="In the beginning\n/quit\n", capture_output=True, timeout=HANGS_AFTER_S)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}\n{done.stderr}")
        self.assertTrue(done.stdout.strip(), f"{command} printed nothing\n{done.stderr}")
        return done.stdout

    def run_document(self, document, least):
        lines = list(commands(document))
        self.assertGreater(len(lines), least)
        for line, prints in lines:
            with self.subTest(line):
                for long, short in SHORTER.items():
                    line = line.replace(long, short)
                printed = self.run_command(line)
                if prints is not None:
                    self.assertEqual(printed.strip(), prints)

    def test_commands_of_the_readme_work_as_written(self):
        self.run_document("README.md", 8)

    def test_commands_of_the_clients_readme_work_as_written(self):
        self.run_document("clients/README.md", 4)

    def test_the_readme_tells_what_commands_print(self):
        told = [prints for _, prints in commands("README.md") if prints is not None]
        self.assertGreaterEqual(len(told), 2)
        self.assertIn("7", told, "the induction example's answer")

    def test_the_example_program_runs(self):
        self.assertGreater(len(self.run_command("engram-example " + self.address).strip()), 20)

    def test_the_code_of_the_readme_is_that_of_the_example(self):
        block = blocks("README.md", "cpp")[0]
        example = re.sub(r"\s+", "", (ROOT / "clients/cpp/example.cc").read_text())
        for statement in ("request.set_model(\"mamba-english\");", "request.set_session_id(\"example\");",
                          "request.mutable_stopping()->set_max_tokens(40);", "client.Generate("):
            self.assertIn(statement, block)
            self.assertIn(statement, example)

    def example_commands(self):
        """How the build compiles and links the example, as words."""
        listed = subprocess.run(["ninja", "-C", BIN.parent, "-t", "commands", "engram-example"],
                                capture_output=True, text=True, check=True).stdout.splitlines()
        compiled = next(line for line in listed if line.endswith("/clients/cpp/example.cc"))
        return shlex.split(compiled), shlex.split(listed[-1].removeprefix(": && ").removesuffix(" && :"))

    def test_the_code_of_the_documents_compiles_and_runs(self):
        code = [block for document in ("README.md", "clients/README.md") for block in blocks(document, "cpp")]
        self.assertGreaterEqual(len(code), 2)
        bodies = "".join(f"{{\n{block}\nif (!status.ok()) {{ std::cerr << status << \"\\n\"; return 1; }}\n"
                         "std::cout << std::endl;\n}\n" for block in code)
        program = ("#include <iostream>\n#include \"clients/cpp/client.h\"\n"
                   f"int main() {{\n{re.sub('localhost:[0-9]+', self.address, bodies)}}}\n")
        compiled, linked = self.example_commands()
        with tempfile.TemporaryDirectory() as folder:
            source, target = pathlib.Path(folder, "documents.cc"), pathlib.Path(folder, "documents")
            source.write_text(program)
            sound = compiled[compiled.index("-o") + 1]
            compiled[compiled.index("-o") + 1] = f"{target}.o"
            compiled[-1] = str(source)
            for flag in ("-MF", "-MT"):
                compiled[compiled.index(flag) + 1] = f"{target}.d"
            linked[linked.index(sound)] = f"{target}.o"
            linked[linked.index("-o") + 1] = str(target)
            for command in (compiled, linked):
                done = subprocess.run(command, cwd=BIN.parent, capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stderr[-3000:])
            printed = self.run_command(str(target)).strip().splitlines()
        self.assertGreaterEqual(len(printed), len(code))

    def test_what_the_documents_link_to_exists(self):
        for document in sorted(path for path in ROOT.rglob("*.md") if "build" not in path.relative_to(ROOT).parts):
            prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
            for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", prose):
                self.assertTrue((document.parent / link).exists(), f"{document.relative_to(ROOT)} links to {link}")

    def test_scripts_that_the_documents_name_exist(self):
        for document in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"):
            for script in re.findall(r"\bscripts/[a-z-]+", (ROOT / document).read_text()):
                self.assertTrue(os.access(ROOT / script, os.X_OK), f"{document} names {script}")


if __name__ == "__main__":
    unittest.main()
