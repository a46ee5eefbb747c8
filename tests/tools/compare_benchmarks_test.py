"""scripts/compare-benchmarks with programs that tell times instead of taking them."""
import json
import pathlib
import subprocess
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "compare-benchmarks"


class CompareBenchmarksTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def program(self, name, runs, status=0):
        """One that logs its name and arguments, and prints these benchmarks."""
        path = self.folder / name
        (self.folder / f"{name}.json").write_text(json.dumps({"benchmarks": runs}) if runs else "")
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.folder}/log\ncat {path}.json\nexit {status}\n')
        path.chmod(0o755)
        return str(path)

    def compare(self, *arguments):
        return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)

    def log(self):
        return (self.folder / "log").read_text().splitlines()

    def test_it_tells_after_by_before_whatever_the_units(self):
        before = self.program("before", [{"name": "a", "real_time": 2, "time_unit": "us"},
                                         {"name": "gone", "real_time": 1, "time_unit": "ns"}])
        after = self.program("after", [{"name": "a", "real_time": 3000, "time_unit": "ns"}])
        done = self.compare("--pairs", "3", before, after)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines()[1].split(), ["a", "1.500", "0.000"])
        self.assertNotIn("gone", done.stdout)

    def test_cpu_time_is_compared_where_it_is_asked_for(self):
        before = self.program("before", [{"name": "a", "real_time": 9, "cpu_time": 2, "time_unit": "ns"}])
        after = self.program("after", [{"name": "a", "real_time": 1, "cpu_time": 3, "time_unit": "ns"}])
        done = self.compare("--cpu-time", before, after)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines()[1].split(), ["a", "1.500", "0.000"])

    def test_who_runs_first_changes_from_pair_to_pair(self):
        runs = [{"name": "a", "real_time": 1, "time_unit": "ns"}]
        done = self.compare("--pairs", "2", self.program("before", runs), self.program("after", runs), "--", "folder")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([line.split()[0] for line in self.log()], ["before", "after", "after", "before"])
        self.assertTrue(all(line.endswith(" folder") for line in self.log()), self.log())

    def test_a_program_that_fails_and_one_that_has_no_such_benchmark_are_told(self):
        runs = [{"name": "a", "real_time": 1, "time_unit": "ns"}]
        sound = self.program("sound", runs)
        failed = self.compare(sound, self.program("failing", runs, status=3))
        self.assertEqual(failed.returncode, 1)
        self.assertIn("failed with status 3", failed.stderr)
        empty = self.compare("--filter", "b", self.program("empty", []), sound)
        self.assertEqual(empty.returncode, 1)
        self.assertIn("has no benchmark that matches 'b'", empty.stderr)


if __name__ == "__main__":
    unittest.main()
