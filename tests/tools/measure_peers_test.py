"""tools/peers/measure_peers.py: its arithmetic, on a clock and with a peer of the test's own."""
import contextlib
import json
import pathlib
import subprocess
import sys
import types
import unittest
import unittest.mock

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tools/peers"
sys.path.insert(0, str(FOLDER))
import measure_peers  # noqa: E402


class Prompt:
    def __init__(self, rows, length):
        self.shape = (rows, length)


class Peer:
    """Takes 3 s, 7 ms for each row and token read at first, 2 ms for each row and step after it."""
    name = "test"

    def __init__(self, torch, device, weights):
        self.torch, self.device = torch, device
        self.now = 0.0
        torch.clock = lambda: self.now

    def version(self):
        return "1"

    def load(self, shape):
        if shape == "mamba2-130m":
            raise RuntimeError("not of this size")
        return shape

    def generate(self, model, prompt, tokens):
        rows, length = prompt.shape
        self.now += 3 + 0.007 * rows * length + 0.002 * rows * (tokens - 1)


def run(*arguments):
    torch = types.SimpleNamespace(randint=lambda low, high, shape, device: Prompt(*shape),
                                  inference_mode=contextlib.nullcontext)
    options = measure_peers.read_options(list(arguments))
    options.device = "cpu"
    with unittest.mock.patch.object(measure_peers.time, "perf_counter", lambda: torch.clock()):
        return measure_peers.run_peer(Peer, torch, options)


class MeasurePeers(unittest.TestCase):
    def test_a_step_is_what_more_tokens_take_less_what_one_takes(self):
        report = run("--shapes", "mamba-130m", "--rows", "1,4")
        self.assertEqual([(result["rows"], result["tokens"]) for result in report["results"]], [(1, 1), (4, 1)])
        for result, expected in zip(report["results"], (0.002, 0.008)):
            self.assertAlmostEqual(result["step_seconds"]["median"], expected, 9)
            self.assertAlmostEqual(result["tokens_per_second"], 500, 3)

    def test_a_prompt_is_what_one_token_after_it_takes(self):
        report = run("--shapes", "mamba-130m", "--rows", "", "--prompt-tokens", "512")
        self.assertEqual(len(report["results"]), 1)
        self.assertAlmostEqual(report["results"][0]["step_seconds"]["median"], 3 + 0.007 * 512, 9)

    def test_what_fails_is_told_and_passed_over(self):
        report = run("--shapes", "mamba2-130m,mamba-130m")
        self.assertEqual(report["results"][0]["error"], "RuntimeError: not of this size")
        self.assertIn("step_seconds", report["results"][1])

    def test_says_why_peers_are_not_measured(self):
        program = [sys.executable, "-S", str(FOLDER / "measure_peers.py"), "--json"]
        reports = json.loads(subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout)
        self.assertEqual([report["peer"] for report in reports], ["transformers", "mamba-ssm"])
        for report in reports:
            self.assertIn("torch", report["unavailable"])

    def test_names_the_shapes_that_there_are(self):
        program = [sys.executable, str(FOLDER / "measure_peers.py"), "--shapes", "mamba-7b"]
        result = subprocess.run(program, stderr=subprocess.PIPE, text=True)
        self.assertEqual(result.returncode, 2)
        self.assertIn("unknown shape 'mamba-7b'; there are mamba-130m", result.stderr)


if __name__ == "__main__":
    unittest.main()
