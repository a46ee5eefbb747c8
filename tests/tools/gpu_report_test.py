"""scripts/gpu-report: what it tells of kernels; and that those that spill end the build."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/gpu-report"
sys.path.insert(0, str(ROOT / "tools/gpu"))

import kernel_resources  # noqa: E402

MODULES = [f"tools/gpu/{name}.py" for name in ("device_launches", "kernel_resources", "kernel_work")]
BUILD = (ROOT / "kernels/cuda/CMakeLists.txt").read_text()

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
    def test_tells_what_the_compiler_says_of_a_kernel(self):
        code, text = report("--kernels-only", "following_rows")
        self.assertEqual(code, 0, text)
        self.assertRegex(text, r"following_rows +FollowAnswersKernel +[1-9]\d* +0 +0 +0 +128 +16\n")

    def test_compiles_with_flags_of_the_build(self):
        for flag in kernel_resources.FLAGS:
            self.assertIn(flag, BUILD.replace("${architecture}", "90a"))

    def test_a_kernel_that_spills_is_told_and_ends_the_build(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for part in ("scripts/gpu-report", *MODULES):
                (root / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / part, root / part)
            source = root / "kernels/cuda/spills.cu"
            source.parent.mkdir(parents=True)
            source.write_text(SPILLS)
            code, text = report("--kernels-only", script=root / "scripts/gpu-report")
            self.assertEqual(code, 1, text)
            self.assertRegex(text, r"spills +Spills +\d+ +[1-9]")
            # What the compiler said of it once is not told of another.
            without = root / "kernels/cuda/without.h"
            without.write_text("#define Spills Empty\n")
            source.write_text('#include "kernels/cuda/without.h"\n__global__ void Spills() {}\n')
            self.assertEqual(report("--kernels-only", script=root / "scripts/gpu-report")[0], 0)
            without.write_text("")
            self.assertRegex(report("--kernels-only", script=root / "scripts/gpu-report")[1], r"spills +Spills +\d+ +0")
            source.write_text(SPILLS)

            warnings = re.search(r"set\(local_memory (\S+)\)", BUILD)[1]
            errors = re.search(r'string\(APPEND local_memory "(\S+)"\)', BUILD)[1]
            for options, is_error in ((warnings, False), (warnings + errors, True)):
                built = subprocess.run(
                    [kernel_resources.nvcc(), *kernel_resources.FLAGS, "-Xptxas", options, "-cubin", "-o",
                     root / "spills.cubin", source], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                self.assertIn("spilled to local memory", built.stdout)
                self.assertEqual(built.returncode != 0, is_error, built.stdout)

    def test_blocks_fit_by_what_they_have_most_of(self):
        for resources, blocks in (((32, 128, 0), 16), ((64, 128, 0), 8), ((65, 128, 0), 7), ((16, 64, 0), 32),
                                  ((32, 1024, 0), 2), ((32, 128, 100 * 1024), 2), ((32, 128, 113 * 1024), 2),
                                  ((32, 128, 114 * 1024), 1)):
            self.assertEqual(kernel_resources.blocks_that_fit(*resources), blocks, resources)

    def test_refuses_what_is_not_there(self):
        code, text = report("nothing")
        self.assertEqual(code, 2)
        self.assertIn("there is no kernels/cuda/nothing.cu", text)
        for wrong in (("--terabytes", "0"), ("--teraflops", "-1"), ("--kernel-microseconds", "-1"),
                      ("--model", "mamba-7b")):
            self.assertEqual(report(*wrong)[0], 2)


if __name__ == "__main__":
    if not kernel_resources.nvcc():
        sys.exit(77)
    unittest.main()
