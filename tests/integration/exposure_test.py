"""What a server does that other machines could reach: by accident, nothing.

Usage: exposure_test.py SOURCE_FOLDER BINARY_FOLDER
"""
import hashlib
import json
import os
import pathlib
import re
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
BIN = pathlib.Path(sys.argv.pop(1)).resolve()
sys.path.insert(0, str(ROOT / "tests/support"))

from server_program import C_ARES_LEAKS, MODEL, LoggedServer, private_file, run  # noqa: E402: found only now
from test_certificates import Authority  # noqa: E402

os.environ["LSAN_OPTIONS"] = C_ARES_LEAKS
# Said after what start_server says, and so instead of it.
EVERYWHERE = ("--grpc-address", "0.0.0.0:0", "--metrics-address", "0.0.0.0:0")
KEY = "a key is not a password but a random number".replace(" ", "-")


class ExposureTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(cls.folder.name)
        cls.authority = Authority(folder, "authority")
        pair = cls.authority.issue("server")
        cls.tls = ("--tls-certificate", pair.certificate, "--tls-key", pair.key)
        keys = folder / "keys.json"
        keys.write_text(json.dumps({"keys": [{"name": "user", "tenant": "acme", "roles": ["generate", "sessions"],
                                              "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]}))
        cls.keys = ("--keys", keys)
        cls.key_file = private_file(folder / "key", KEY + "\n")
        cls.wrong_key_file = private_file(folder / "wrong", KEY[::-1])

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def start(self, *flags):
        """The address of a server's gRPC port, or None if it ended at once; and how to end it and read its log."""
        server = LoggedServer(BIN, *MODEL, "--request-log", "off", *flags)
        self.addCleanup(server.stop)
        return server.grpc, lambda: (server.stop(), server.log())

    def warnings(self, lines):
        return [line["message"] for line in lines if line["event"] == "insecure"]

    def test_an_open_address_without_tls_or_without_keys_is_refused(self):
        for flags, words in (((), "give --tls-certificate, --tls-key, --keys, or"),
                             (self.tls, "give --keys, or"),
                             (self.keys, "give --tls-certificate, --tls-key, or")):
            for address in (EVERYWHERE, EVERYWHERE[:2], EVERYWHERE[2:], ("--grpc-address", "[::]:0")):
                with self.subTest(flags=flags, address=address):
                    served, end = self.start(*flags, *address)
                    code, lines = end()
                    self.assertEqual((served, code), (None, 1))
                    self.assertIn(words, lines[-1]["message"])
                    self.assertIn("or --insecure if everybody may do everything there", lines[-1]["message"])

    def test_insecure_opens_it_and_the_log_says_what_is_open(self):
        served, end = self.start(*EVERYWHERE, "--insecure")
        self.assertIsNotNone(served)
        port = served.rsplit(":", 1)[1]
        done = run(BIN / "engram", "models", "--server", f"localhost:{port}")
        self.assertEqual(done.returncode, 0, done.stderr)
        code, lines = end()
        self.assertEqual(code, 0)
        [warning] = self.warnings(lines)
        self.assertIn("--grpc-address 0.0.0.0:0 and --metrics-address 0.0.0.0:0 can be reached by other machines", warning)
        self.assertIn("without keys everybody may read, fork and delete every session", warning)

    def test_with_tls_and_keys_it_starts_without_a_word_and_serves_who_has_a_key(self):
        served, end = self.start(*EVERYWHERE, *self.tls, *self.keys)
        self.assertIsNotNone(served)
        command = [BIN / "engram", "models", "--server", f"localhost:{served.rsplit(':', 1)[1]}", "--ca",
                   self.authority.certificate]
        refused = run(*command)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("UNAUTHENTICATED: no key", refused.stderr)
        self.assertIn("--api-key-file FILE", refused.stderr)
        done = run(*command, "--api-key-file", self.key_file)
        self.assertEqual(done.returncode, 0, done.stderr)
        code, lines = end()
        self.assertEqual(code, 0)
        self.assertEqual(self.warnings(lines), [])
        self.assertNotIn(KEY, json.dumps(lines))

    def test_the_key_file_of_the_document_is_one(self):
        section = re.search(r"^## Keys$(.*?)^## ", (ROOT / "deploy/README.md").read_text(), re.M | re.S)[1]
        text = re.search(r"^```json\n(.*?)^```", section, re.M | re.S)[1]
        text = re.sub(r"64 hexadecimal digits[^\"]*", hashlib.sha256(KEY.encode()).hexdigest(), text)
        # Whenever this runs, it has not expired.
        text = re.sub(r"20\d\d-", "9999-", text)
        keys = pathlib.Path(self.folder.name) / "documented.json"
        keys.write_text(text)
        served, end = self.start("--keys", keys, *self.tls, "--tls-client-ca", self.authority.certificate)
        self.assertIsNotNone(served, end()[1] if served is None else "")
        # Of the one the key, of the other the certificate.
        gateway = self.authority.issue("gateway", "DNS:gateway.acme.example")
        stranger = self.authority.issue("stranger", "DNS:stranger.example")
        for pair, flags, code in ((stranger, ("--api-key-file", self.key_file), 0), (gateway, (), 0), (stranger, (), 1)):
            done = run(BIN / "engram", "models", "--server", served, "--ca", self.authority.certificate, "--certificate",
                       pair.certificate, "--key", pair.key, *flags)
            self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn("UNAUTHENTICATED", done.stderr)
        end()

    def test_nothing_that_is_said_is_logged(self):
        served, end = self.start("--model", f"english={ROOT}/model/zoo/mamba-english", "--request-log", "on", *self.keys)
        self.assertIsNotNone(served)
        secret = "Zerubbabel"
        model = ("--model", "english")
        answer = None
        for code, command in ((0, ("generate", *model, "--prompt", f"And {secret} said", "--max-tokens", 24)),
                              # Refused for what it says.
                              (1, ("generate", *model, "--prompt", secret, "--stop", secret * 60)),
                              (1, ("generate", *model, "--prompt", secret, *(f"--stop={secret}{i}" for i in range(40)))),
                              (1, ("generate", *model, "--prompt", secret, "--top-p", 7)),
                              (1, ("generate", *model, "--prompt", secret, "--logprobs", 99)),
                              (0, ("score", *model, "--text", secret)),
                              (0, ("tokenize", *model, "--text", secret)),
                              (1, ("sessions", "create", *model, "--label", f"a={secret * 1000}"))):
            with self.subTest(command=str(command)[:200]):
                done = run(BIN / "engram", *command, "--server", served, "--api-key-file", self.key_file)
                self.assertEqual(done.returncode, code, done.stderr)
                answer = answer or done.stdout.strip()
        wrong = run(BIN / "engram", "models", "--server", served, "--api-key-file", self.wrong_key_file)
        self.assertIn("UNAUTHENTICATED: unknown key", wrong.stderr)
        code, lines = end()
        self.assertEqual(code, 0)
        log = json.dumps(lines)
        self.assertGreater(log.count('"event": "request"'), 5)
        self.assertGreater(len(answer), 20)
        for said in (secret, answer, KEY, KEY[::-1]):
            self.assertNotIn(said, log)

    def test_on_loopback_nothing_is_asked_and_nothing_warned_of(self):
        for flags in ((), ("--insecure",)):
            served, end = self.start(*flags)
            self.assertIsNotNone(served)
            code, lines = end()
            self.assertEqual(code, 0)
            self.assertEqual(self.warnings(lines), [])


if __name__ == "__main__":
    unittest.main()
