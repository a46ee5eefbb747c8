"""A converted folder opens in the server itself.

Usage: convert_serve_test.py ENGRAM_SERVER_BINARY
"""

import subprocess
import sys
import threading
import unittest

from convert_support import DATA, ConvertCase

SERVER = sys.argv.pop(1)
LIMIT_S = 60


class ServeTest(ConvertCase):
    def serve(self, folder):
        """Starts the server on the folder; returns what it says until it listens or ends."""
        process = subprocess.Popen(
            [SERVER, "--model", f"converted={folder}", "--grpc-address", "127.0.0.1:0", "--metrics-address",
             "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        limit = threading.Timer(LIMIT_S, process.kill)
        limit.start()
        said = []
        try:
            for line in process.stdout:
                said.append(line)
                if "listening" in line:
                    break
        finally:
            process.terminate()
            process.communicate()
            limit.cancel()
        return "".join(said)

    def test_converted_models_are_served(self):
        for name in ("mamba.bin", "mamba_bf16.bin", "mamba_untied.bin", "mamba_views.bin", "mamba2.bin",
                     "mamba2_groups.bin"):
            with self.subTest(name):
                target = self.folder / name.removesuffix(".bin")
                self.convert(DATA / name, target=target)
                self.assertIn("listening", self.serve(target))

    def test_a_config_that_came_with_the_weights(self):
        config = {"d_model": 8, "n_layer": 2, "vocab_size": 21, "ssm_cfg": {"d_state": 4}}
        self.convert(self.source("mamba.bin", config=config))
        self.assertIn("listening", self.serve(self.target))


if __name__ == "__main__":
    unittest.main()
