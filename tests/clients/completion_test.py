"""The completion scripts, asked by the shells themselves.

Usage: completion_test.py BINARY_FOLDER SOURCE_FOLDER
"""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

BIN = pathlib.Path(sys.argv.pop(1)).resolve()
ROOT = pathlib.Path(sys.argv.pop(1)).resolve()

from terminal import Terminal


def script(shell):
    return subprocess.run([BIN / "engram", "completion", shell], capture_output=True, text=True, check=True).stdout


class BashTest(unittest.TestCase):
    def complete(self, *words):
        """What bash would offer for the last of `words`."""
        program = script("bash") + '\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _engram; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-euc", program, "bash", "engram", *words], capture_output=True, text=True,
                              cwd=ROOT / "clients")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.split()

    def test_verbs(self):
        self.assertEqual(self.complete("gen"), ["generate"])
        self.assertIn("sessions", self.complete(""))
        self.assertEqual(self.complete("--server", "host", "cha"), ["chat"])
        self.assertEqual(self.complete("--server", "=", "host", "cha"), ["chat"])

    def test_words_of_verbs(self):
        self.assertEqual(self.complete("sessions", ""), ["list", "get", "create", "fork", "export", "import", "delete"])
        self.assertEqual(self.complete("sessions", "f"), ["fork"])
        self.assertEqual(self.complete("completion", "z"), ["zsh"])

    def test_every_flag_that_help_names(self):
        for verb in self.complete(""):
            text = subprocess.run([BIN / "engram", verb, "--help"], capture_output=True, text=True, check=True).stdout
            flags = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
            self.assertGreater(len(flags), 4)
            self.assertEqual(self.complete(verb, "--"), flags, verb)

    def test_files_where_a_flag_takes_one_and_nothing_where_only_the_user_knows(self):
        self.assertEqual(self.complete("generate", "--prompt-file", "CM"), ["CMakeLists.txt"])
        self.assertEqual(self.complete("generate", "--prompt-file", "=", "CM"), ["CMakeLists.txt"])
        self.assertEqual(self.complete("generate", "--prompt", "CM"), [])

    def test_a_line_that_is_completed_by_tab(self):
        with tempfile.NamedTemporaryFile("w", suffix=".bash") as file:
            file.write(script("bash"))
            file.flush()
            shell = Terminal(["bash", "--norc", "--noprofile", "-i"],
                             dict(os.environ, PS1="$ ", PATH=f"{BIN}:{os.environ['PATH']}"))
            self.addCleanup(shell.close)
            shell.wait_for(r"\$ ")
            shell.type(f"source {file.name}\r")
            shell.wait_for(r"\$ ")
            shell.type("engram sess\tfo\t--wi\t")
            shell.wait_for("engram sessions fork --wide ")


class ZshTest(unittest.TestCase):
    def test_lines_that_are_completed_by_tab(self):
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "_engram").write_text(script("zsh"))
            shell = Terminal(["zsh", "-f", "-i"], dict(os.environ, PS1="$ ", PATH=f"{BIN}:{os.environ['PATH']}"))
            self.addCleanup(shell.close)
            shell.wait_for(r"\$ ")
            shell.type(f"fpath=({folder} $fpath); autoload -U compinit; compinit -u -D; zstyle ':completion:*' menu no; echo rea''dy\r")
            shell.wait_for("ready")
            for typed, completed in (("engram sess\tfo\t--wi\t", r"sessions\W+fork\W+--wide"),
                                     ("engram gene\t--prompt-\t", r"generate\W+--prompt-file"),
                                     ("engram --server host cha\t", "chat")):
                shell.wait_for(r"\$ ")
                shell.type(typed)
                shell.wait_for(completed)
                shell.type("\x15\r")


if __name__ == "__main__":
    unittest.main()
