"""scripts/gpu-report: what it tells of kernels, and that ours do not spill."""
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts/gpu-report"
MODULE = runpy.run_path(str(SCRIPT))

SPILLS = """
__global__ void __launch_bounds__(1024) Spills(const float* in, float* out) {
  float values[200];
#pragma unroll
  for (int i = 0; i < 200; ++i) values[i] = in[threadIdx.x + 1024 * i];
#pragma unroll
  for (int i = 0; i < 200; ++i) out[1024 * i] = values[199 - i] * values[i] + in[i];
}
"""


def report(*arguments, script=SCRIPT, **environment):
    result = subprocess.run([str(script), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, **environment})
    return result.returncode, result.stdout


class GpuReport(unittest.TestCase):
    def test_no_kernel_spills(self):
        code, text = report("--kernels-only")
        self.assertEqual(code, 0, text)
        self.assertIn("selective_scan", text)

    def test_compiles_with_flags_of_the_build(self):
        build = (SCRIPT.parents[1] / "kernels/cuda/CMakeLists.txt").read_text().replace("${architecture}", "90a")
        for flag in MODULE["FLAGS"]:
            self.assertIn(flag, build)

    def test_tells_a_kernel_that_spills(self):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "kernels/cuda").mkdir(parents=True)
            (pathlib.Path(folder) / "scripts").mkdir()
            (pathlib.Path(folder) / "kernels/cuda/spills.cu").write_text(SPILLS)
            script = pathlib.Path(folder) / "scripts/gpu-report"
            script.write_bytes(SCRIPT.read_bytes())
            script.chmod(0o755)
            code, text = report("--kernels-only", script=script)
            self.assertEqual(code, 1, text)
            self.assertRegex(text, r"spills +Spills +\d+ +[1-9]")

    def test_bounds_are_bytes_by_the_rate(self):
        _, text = report("--terabytes", "1", "following_rows")
        # At 1 TB/s a megabyte takes a microsecond.
        row = next(line for line in text.splitlines() if line.startswith("mamba-2.8b")).split()
        weights, of_a_row, one, _, many = map(float, row[1:])
        self.assertAlmostEqual(one, weights + of_a_row, delta=2)
        self.assertAlmostEqual(many, weights + 256 * of_a_row, delta=15)

    def test_refuses_what_is_not_there(self):
        code, text = report("nothing")
        self.assertEqual(code, 2)
        self.assertIn("there is no kernels/cuda/nothing.cu", text)
        self.assertEqual(report("--terabytes", "0")[0], 2)


if __name__ == "__main__":
    # Asked of the script's own search, and of nothing else that may be wrong with it: what is not a lack of nvcc fails.
    try:
        MODULE["nvcc"]()
    except SystemExit:
        sys.exit(77)
    unittest.main()
