"""tools/gpu/kernel_work.py: what it says of kernels is what the emulated device counts; and what scripts/gpu-report
makes of it.

Usage: kernel_work_test.py DEVICE_TRAFFIC
"""
import pathlib
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/gpu"))

import device_launches  # noqa: E402
import kernel_work  # noqa: E402

PROGRAM = pathlib.Path(sys.argv.pop(1))

VOCABULARY = 256
# A layer of each kind; all that is published of a family but width and layers is the same in all of its shapes.
SHAPES = {
    "mamba-130m": kernel_work.Shape("mamba", 256, 1, VOCABULARY),
    "mamba2-130m": kernel_work.Shape("mamba2", 256, 1, VOCABULARY),
    "h3-1.3b": kernel_work.Shape("h3", 128, 2, VOCABULARY, attention=1),
}
# Above 8 rows updates are others, from 72 on all products of Mamba-2; 128 tokens fill their tiles.
STEPS = [kernel_work.Step(1, 1), kernel_work.Step(16, 1, 37), kernel_work.Step(72, 1), kernel_work.Step(2, 64)]


def measured(name):
    """Of each of STEPS its works and what was counted of their kernels."""
    options = ["--layers", str(len(SHAPES[name].layers)), "--width", str(SHAPES[name].d_model),
               "--vocabulary", str(VOCABULARY)]
    for step in STEPS:
        options += ["--step", f"{step.rows}x{step.tokens}@{step.before}"]
    for step, told in zip(STEPS, device_launches.steps(PROGRAM, name, *options)):
        names = [device_launches.base(kernel["kernel"]) for kernel in told["kernels"]]
        yield step, list(zip(kernel_work.of_launches(SHAPES[name].works(step), names), told["kernels"]))


class KernelWork(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.steps = [(f"{name}, {step}, {work.part}: {work.what}", step, work, kernel)
                     for name in SHAPES for step, kernels in measured(name) for work, kernel in kernels]

    def test_bytes_are_those_of_the_emulated_device(self):
        for what, step, work, kernel in self.steps:
            with self.subTest(what):
                loaded = work.weights + work.states_read + work.read
                # And the step's tables, requests of draws, and blocks of keys.
                tables = 64 + 128 * step.rows + 4 * step.all_tokens
                self.assertGreaterEqual(kernel["loaded"], loaded)
                self.assertLessEqual(kernel["loaded"], loaded + tables)
                if work.what != "draw":  # its answers
                    self.assertEqual(kernel["stored"], work.states_written + work.written)

    def test_products_are_those_of_the_emulated_device(self):
        for what, step, work, kernel in self.steps:
            with self.subTest(what):
                # Outputs that are no multiple of 64 leave a tile empty. Half of a narrow kernel's rows are.
                most = 1.05
                if device_launches.base(kernel["kernel"]) == "NarrowKernel":
                    most *= 2
                if step.is_decode or work.part == "tail":  # few tokens
                    most *= 16
                done = 2048 * kernel["matrix_steps"]
                self.assertGreaterEqual(done, work.multiply_adds)
                self.assertLessEqual(done, most * work.multiply_adds)

    def test_recurrences_are_those_of_the_emulated_device(self):
        for what, step, work, kernel in self.steps:
            if work.fused_adds == 0:
                continue
            with self.subTest(what):
                # With softplus and what is added of x; attention merges what its warps have.
                merged = 64 * step.all_tokens * SHAPES["h3-1.3b"].d_model if work.what == "attend" else 0
                self.assertGreaterEqual(kernel["fused_adds"], work.fused_adds)
                self.assertLessEqual(kernel["fused_adds"], 1.5 * work.fused_adds + merged)


class Launches(unittest.TestCase):
    WORKS = SHAPES["mamba-130m"].works(kernel_work.Step(1, 1))
    NAMES = ["FollowAnswersKernel", "EmbedKernel", "NarrowKernel", "NarrowKernel", "UpdateKernel", "NarrowKernel",
             "NormKernel", "KeepLastTokensKernel", "NarrowKernel", "AnswerRows"]

    def test_a_norm_is_part_of_the_kernel_behind_it_where_there_is_none(self):
        works = kernel_work.of_launches(SHAPES["mamba-130m"].works(kernel_work.Step(1, 1)), self.NAMES)
        self.assertEqual([work.what for work in works][:4], ["follow", "embed", "in_proj", "x_proj"])
        self.assertEqual(works[2].weights, self.WORKS[2].weights + self.WORKS[3].weights)

    def test_others_than_those_that_are_known_are_refused(self):
        for names in (self.NAMES[:-1], self.NAMES + ["NormKernel"], ["NormKernel"] + self.NAMES,
                      self.NAMES[:4] + self.NAMES[5:]):
            with self.assertRaises(ValueError):
                kernel_work.of_launches(SHAPES["mamba-130m"].works(kernel_work.Step(1, 1)), names)


class Report(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.text = subprocess.run(
            [str(ROOT / "scripts/gpu-report"), "--program", str(PROGRAM), "--summary", "--model", "mamba-130m",
             "--terabytes", "1", "--teraflops", "50", "--kernel-microseconds", "2"],
            stdout=subprocess.PIPE, text=True, check=True).stdout

    def row(self, start):
        return next(line for line in self.text.splitlines() if line.startswith(start))[len(start):].split()

    def test_tells_the_kernels_of_a_layer(self):
        self.assertEqual(self.row("mamba-130m, mamba"), ["4", "4", "5", "5", "5", "8"])

    def test_a_step_takes_its_bytes_at_the_rate_and_what_its_kernels_cost(self):
        kernels, weights, states, activations, tensor, float32, both, least, most = map(
            float, self.row("mamba-130m, 32 rows"))
        self.assertEqual(kernels, 24 * 5 + 6)
        # At 1 TB/s a megabyte takes a microsecond.
        self.assertAlmostEqual(both, weights + states, delta=2)
        self.assertAlmostEqual(least, both + 2 * kernels, delta=2)
        self.assertAlmostEqual(most, least + activations, delta=2)
        # Embeddings, in_proj and out_proj, and more.
        self.assertGreater(weights, 2 * (50280 * 768 + 24 * 3 * 1536 * 768) / 1e6)
        self.assertGreater(tensor, 32 * 2 * (50280 * 768 + 24 * 3 * 1536 * 768) / 1e9)

    def test_a_prompt_takes_its_products_at_the_rate(self):
        kernels, *_, tensor, _, both, least, _ = map(float, self.row("mamba-130m, 2048 tokens"))
        self.assertGreater(least, tensor / 50 * 1e3 + 2 * kernels)
        self.assertGreater(least, both)


if __name__ == "__main__":
    unittest.main()
