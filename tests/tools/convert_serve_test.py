"""A converted folder opens in the server itself, and answers.

Usage: convert_serve_test.py ENGRAM_SERVER_BINARY

The command line client, `engram`, lies beside the server.
"""

import json
import pathlib
import subprocess
import sys
import threading
import unittest

from convert_support import DATA, ConvertCase

SERVER = pathlib.Path(sys.argv.pop(1))
CLIENT = SERVER.with_name("engram")
LIMIT_S = 60


class ServeTest(ConvertCase):
    def assert_answers(self, folder):
        """Serves the folder, and feeds it more tokens than an SSM's filter or a block of keys has; its ModelInfo."""
        process = subprocess.Popen(
            [SERVER, "--model", f"converted={folder}", "--kv-memory", "1048576", "--grpc-address", "127.0.0.1:0",
             "--metrics-address", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        limit = threading.Timer(LIMIT_S, process.kill)
        limit.start()
        said = []
        try:
            for line in process.stdout:
                said.append(line)
                if line.startswith("listening grpc="):
                    break
            self.assertIn("listening", "".join(said))
            address = said[-1].split()[1].removeprefix("grpc=")
            prompt = ",".join(str(token % 20) for token in range(70))
            events = self.ask(address, "generate", "--tokens", prompt, "--max-tokens", "5", "--ignore-eos",
                              "--temperature", "0", "--logprobs", "1")
            tokens = [event["token"] for event in events if "token" in event]
            self.assertEqual(len(tokens), 5, events)
            for token in tokens:
                self.assertLess(token["logprob"], 0)
                self.assertEqual(token["top"][0]["id"], token["id"])
            self.assertEqual(events[-1]["completed"]["position"], "74")
            return self.ask(address, "models", "get")[0]
        finally:
            process.terminate()
            process.communicate()
            limit.cancel()

    def ask(self, address, *arguments):
        """What the client prints with --json, line by line."""
        client = subprocess.run([CLIENT, "--server", address, "--json", *arguments], capture_output=True, text=True,
                                timeout=LIMIT_S)
        self.assertEqual(client.returncode, 0, client.stderr)
        return [json.loads(line) for line in client.stdout.splitlines()]

    def test_converted_models_answer(self):
        for name, family in (("mamba.bin", "mamba"), ("mamba_bf16.bin", "mamba"), ("mamba_untied.bin", "mamba"),
                             ("mamba_views.bin", "mamba"), ("mamba2.bin", "mamba2"), ("mamba2_groups.bin", "mamba2")):
            with self.subTest(name):
                target = self.folder / name.removesuffix(".bin")
                self.convert(DATA / name, target=target)
                model = self.assert_answers(target)
                self.assertEqual(model["family"], family)
                self.assertEqual(model.get("kv_bytes_per_token", "0"), "0")

    def test_converted_h3_answers(self):
        # Heads, and what an attention layer keeps of a token: keys and values in float.
        for name, heads, width in (("h3.pt", 1, 4), ("h3_golden.pt", 2, 20), ("h3_toy.pt", 2, 4)):
            with self.subTest(name):
                target = self.folder / name.removesuffix(".pt")
                self.convert(DATA / name, "--attention-heads", str(heads), target=target)
                model = self.assert_answers(target)
                self.assertEqual(model["family"], "h3")
                self.assertEqual(model["kv_bytes_per_token"], str(2 * width * 4))

    def test_a_converted_folder_that_was_quantised(self):
        self.convert(DATA / "mamba.bin", target=self.target)
        quantised = self.folder / "quantised"
        command = [SERVER, "--quantize", self.target, "--into", quantised, "--weights", "int8"]
        subprocess.run(command, check=True, timeout=LIMIT_S)
        self.assertEqual(self.assert_answers(quantised)["weight_format"], "f32 and int8")
        again = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S)
        self.assertEqual(again.returncode, 1)
        self.assertIn("is there, and is left as it is", again.stderr)
        other = subprocess.run([SERVER, "--model", f"m={quantised}", "--weights", "f16"], stderr=subprocess.PIPE,
                               text=True, timeout=LIMIT_S)
        self.assertEqual(other.returncode, 1)
        self.assertIn("quantised to int8 already", other.stderr)

    def test_a_config_that_came_with_the_weights(self):
        config = {"d_model": 8, "n_layer": 2, "vocab_size": 21, "ssm_cfg": {"d_state": 4}}
        self.convert(self.source("mamba.bin", config=config))
        self.assert_answers(self.target)

    def test_a_hybrid_of_mamba2_and_attention(self):
        golden = DATA.parents[1] / "golden" / "mamba2" / "hybrid_biased"
        self.convert(self.source("mamba2_hybrid.bin", config=json.loads((golden / "config.json").read_text())))
        # One layer's key and value of one head of 6.
        self.assertEqual(self.assert_answers(self.target)["kv_bytes_per_token"], str(2 * 6 * 4))


if __name__ == "__main__":
    unittest.main()
