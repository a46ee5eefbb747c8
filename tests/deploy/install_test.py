"""What `cmake --install` installs is complete: its programs run, and a program
of another project is built with its CMake package.

Usage: install_test.py SOURCE_FOLDER BINARY_FOLDER STUBS_FOLDER
"""
import pathlib
import subprocess
import tempfile
import unittest

from deploy_support import BIN, ROOT, EngramServer


class InstallTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.prefix = self.folder / "prefix"
        self.server = EngramServer()
        self.addCleanup(self.server.stop)

    def run_program(self, *command):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def install(self, component):
        self.run_program("cmake", "--install", BIN.parent, "--prefix", self.prefix, "--component", component)

    def test_another_project_builds_with_the_client(self):
        self.install("client")
        self.run_program("cmake", "-S", ROOT / "tests/deploy/consumer", "-B", self.folder / "build", "-G", "Ninja",
                         f"-DCMAKE_PREFIX_PATH={self.prefix}", "-DCMAKE_CXX_COMPILER_LAUNCHER=")
        self.run_program("cmake", "--build", self.folder / "build")
        self.assertEqual(self.run_program(self.folder / "build/consumer", self.server.grpc), "m\n")
        protos = {path.name for path in (self.prefix / "share/engram/proto/engram/v1").iterdir()}
        self.assertEqual(protos, {"generation.proto", "inspection.proto", "models.proto", "sessions.proto"})
        # Nothing of what was installed names the folders that it was built in.
        for path in self.prefix.rglob("*.cmake"):
            self.assertNotIn(str(ROOT), path.read_text(), path)

    def test_the_programs_run_where_they_were_installed(self):
        self.install("programs")
        programs = sorted(path.name for path in (self.prefix / "bin").iterdir())
        self.assertEqual(programs, ["engram", "engram-bench", "engram-eval", "engram-server"])
        for program in programs:
            self.assertTrue(self.run_program(self.prefix / "bin" / program, "--help"))
        self.assertIn("m", self.run_program(self.prefix / "bin/engram", "models", "--server", self.server.grpc))
        for script in ("bash-completion/completions/engram", "zsh/site-functions/_engram"):
            self.assertIn("sessions", (self.prefix / "share" / script).read_text())


if __name__ == "__main__":
    unittest.main()
