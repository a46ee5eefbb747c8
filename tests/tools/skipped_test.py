"""What ctest takes for skipped in a build for GPUs where there is none: no failure.

CTEST's path is the argument. Programs are played by what GoogleTest says.
"""
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

CTEST = sys.argv.pop(1) if len(sys.argv) > 1 else "ctest"
TESTS = pathlib.Path(__file__).resolve().parents[1] / "CMakeLists.txt"
SKIPPED = "backend.h:72: Skipped\nthis machine has no device: CUDA: there is no driver; or use --backend=cpu\n\n"
SAID = {
    "all_at_once": SKIPPED + "[==========] 0 tests from 1 test suite ran. (0 ms total)\n[  PASSED  ] 0 tests.\n",
    "each": SKIPPED + "[  PASSED  ] 1 test.\n[  SKIPPED ] 1 test, listed below:\n[  SKIPPED ] Suite.OnADevice\n",
    "passes": "[  PASSED  ] 2 tests.\n",
    "fails_besides": SKIPPED + "[  PASSED  ] 1 test.\n[  SKIPPED ] 1 test, listed below:\n[  SKIPPED ] Suite.OnADevice\n"
                     "[  FAILED  ] 1 test, listed below:\n[  FAILED  ] Suite.Breaks\n\n 1 FAILED TEST\n",
    "ends_in_the_middle": SKIPPED + "[  SKIPPED ] Suite.OnADevice (0 ms)\n[ RUN      ] Suite.Breaks\nthis is no number\n",
}
RESULTS = {"all_at_once": "Skipped", "each": "Skipped", "passes": "Passed", "fails_besides": "Failed",
           "ends_in_the_middle": "Failed"}


class Skipped(unittest.TestCase):
    def test_is_what_found_no_device_and_failed_in_nothing(self):
        expression = re.search(r'SKIP_REGULAR_EXPRESSION\s+(".*")\)', TESTS.read_text())[1]
        with tempfile.TemporaryDirectory() as folder:
            lines = []
            for name, text in SAID.items():
                pathlib.Path(folder, name).write_text(text)
                rc = 1 if RESULTS[name] == "Failed" else 0
                lines += [f'add_test({name} sh -c "cat {name}; exit {rc}")',
                          f"set_tests_properties({name} PROPERTIES SKIP_REGULAR_EXPRESSION {expression})"]
            pathlib.Path(folder, "CTestTestfile.cmake").write_text("\n".join(lines))
            said = subprocess.run([CTEST], cwd=folder, stdout=subprocess.PIPE, text=True).stdout
        self.assertEqual(dict(re.findall(r"Test +#\d+: (\w+) \.*[ *]*(\w+)", said)), RESULTS, said)


if __name__ == "__main__":
    unittest.main()
