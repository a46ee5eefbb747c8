"""Keys from end to end: the programs, on files that change while they run.

Usage: keys_test.py SOURCE_FOLDER BINARY_FOLDER
"""
import json
import os
import pathlib
import re
import ssl
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
BIN = pathlib.Path(sys.argv.pop(1)).resolve()
sys.path.insert(0, str(ROOT / "tests/support"))

from server_program import (  # noqa: E402: found only now
    C_ARES_LEAKS, MODEL, PROMPT, LoggedServer, eventually, private_file, run)
from test_certificates import Authority  # noqa: E402

os.environ["LSAN_OPTIONS"] = C_ARES_LEAKS
ENDLESS = ("--prompt", "3 11 0", "--max-tokens", "1000000", "--ignore-eos")


def make_key(name, tenant="acme", *flags):
    """The key, and its entry in the file of keys."""
    done = run(BIN / "engram-server", "--make-key", name, "--tenant", tenant, *flags)
    assert done.returncode == 0, done.stderr
    key, entry = done.stdout.splitlines()
    return key, json.loads(entry)


class KeysTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.keys = self.folder / "keys.json"

    def write_keys(self, *entries):
        """As a careful administrator does it: the file becomes another at once."""
        step = self.keys.with_suffix(".new")
        step.write_text(json.dumps({"keys": entries}))
        step.replace(self.keys)

    def key_file(self, key):
        return private_file(self.folder / f"{key[:16]}.key", key + "\n")

    def start(self, *flags):
        self.server = LoggedServer(BIN, *MODEL, "--keys", self.keys, *flags)
        self.addCleanup(self.stop)
        self.assertIsNotNone(self.server.grpc, self.server.log_text())

    def stop(self):
        self.assertEqual(self.server.stop(), 0, self.server.log_text())

    def engram(self, *words, key=None):
        shown = ("--api-key-file", self.key_file(key)) if key else ()
        return run(BIN / "engram", *words, "--server", self.server.grpc, *shown)

    def models(self, key):
        """Whether a key is taken, and what is said if it is not."""
        done = self.engram("models", key=key)
        return done.returncode == 0, done.stderr

    def metric(self, name):
        return float(re.search(rf"^engram_{name} (\S+)$", self.server.ask("/metrics")[1], re.M)[1])

    def test_a_key_that_was_made_is_taken_as_its_entry_says(self):
        key, entry = make_key("robot", "acme", "--roles", "generate")
        self.write_keys(entry)
        self.start()
        self.assertEqual(self.engram("generate", *PROMPT, key=key).stdout.strip(), "7")
        refused = self.engram("sessions", "list", key=key)
        self.assertEqual(refused.returncode, 1)
        self.assertIn('key "robot" has no role "sessions"', refused.stderr)
        self.assertEqual(self.engram("health").stdout.strip(), "SERVING")
        self.stop()
        requests = [line for line in self.server.log() if line["event"] == "request" and line["code"] == "OK"]
        self.assertEqual([(line["key"], line["tenant"]) for line in requests], [("robot", "acme")])
        denied = [line for line in self.server.log() if line.get("code") == "PERMISSION_DENIED"]
        self.assertEqual([(line["key"], line["tenant"]) for line in denied], [("robot", "acme")])
        self.assertNotIn(key, json.dumps(self.server.log()))

    def test_the_file_of_keys_is_read_again(self):
        first, first_entry = make_key("first", "acme", "--roles", "generate")
        second, second_entry = make_key("second")
        self.write_keys(first_entry)
        self.start()
        stream = subprocess.Popen([BIN / "engram", "generate", "--server", self.server.grpc, "--api-key-file",
                                   self.key_file(first), *ENDLESS], stdout=subprocess.PIPE)
        self.addCleanup(stream.wait)
        self.addCleanup(stream.stdout.close)
        self.addCleanup(stream.kill)
        self.assertTrue(stream.stdout.read(1))
        self.assertFalse(self.models(second)[0])
        self.write_keys(second_entry)
        eventually(lambda: self.models(second)[0], "the second key is taken")
        taken, said = self.models(first)
        self.assertFalse(taken)
        self.assertIn("unknown key", said)
        # What has begun goes on.
        for _ in range(100):
            self.assertTrue(stream.stdout.read(1))
        self.assertEqual([line["keys"] for line in self.server.log() if line["event"] == "keys_reloaded"], [1])

    def test_a_broken_file_keeps_the_keys_that_were(self):
        key, entry = make_key("robot")
        self.write_keys(entry)
        self.start()
        self.keys.write_text('{"keys": [')
        eventually(lambda: self.metric("keys_reload_failures_total") == 1, "the failure is counted")
        self.assertTrue(self.models(key)[0])
        self.assertEqual(self.metric("keys"), 1)
        [told] = [line for line in self.server.log() if line["event"] == "keys_reload_failed"]
        self.assertIn("not JSON at byte", told["message"])

    def test_a_key_expires_while_the_server_runs(self):
        soon = time.gmtime(time.time() + 4)
        key, entry = make_key("robot", "acme", "--expires", time.strftime("%Y-%m-%dT%H:%M:%SZ", soon))
        self.write_keys(entry)
        self.start()
        eventually(lambda: not self.models(key)[0], "the key has expired")
        self.assertIn('key "robot" expired at 20', self.models(key)[1])

    def test_a_file_that_cannot_be_used_starts_no_server(self):
        for content, words in ((None, "--keys cannot be read"), ("{}", 'not an object {"keys": [...]}')):
            self.keys.unlink(missing_ok=True)
            if content is not None:
                self.keys.write_text(content)
            done = run(BIN / "engram-server", *MODEL, "--keys", self.keys, "--grpc-address", "127.0.0.1:0",
                       "--metrics-address", "127.0.0.1:0")
            self.assertEqual(done.returncode, 1)
            self.assertIn(words, json.loads(done.stderr.splitlines()[-1])["message"])

    def test_reflection_for_keys_needs_keys(self):
        done = run(BIN / "engram-server", *MODEL, "--reflection", "keyed")
        self.assertEqual(done.returncode, 1)
        self.assertIn("--reflection keyed needs --keys", done.stderr)

    def test_a_certificate_stands_for_a_key_on_both_ports(self):
        authority = Authority(self.folder, "authority")
        server, client = authority.issue("server"), authority.issue("client", "DNS:robot.example")
        # One name among others that no key can be named by: of a kind, and of a length.
        crowded = authority.issue("crowded", f"otherName:1.2.3.4;UTF8:x,DNS:{'x' * 5000},DNS:robot.example")
        stranger = authority.issue("stranger", "DNS:elsewhere.example")
        roles = ["generate", "metrics"]
        self.write_keys({"name": "robot", "tenant": "acme", "certificate": "robot.example", "roles": roles})
        self.start("--tls-certificate", server.certificate, "--tls-key", server.key, "--tls-client-ca",
                   authority.certificate, "--metrics-address", "0.0.0.0:0")

        def ask(pair):
            return run(BIN / "engram", "generate", *PROMPT, "--server", self.server.grpc, "--ca", authority.certificate,
                       "--certificate", pair.certificate, "--key", pair.key)

        for pair in (client, crowded):
            self.assertEqual(ask(pair).stdout.strip(), "7")
        refused = ask(stranger)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("no key", refused.stderr)

        def page(pair):
            settings = ssl.create_default_context(cafile=authority.certificate)
            settings.load_cert_chain(pair.certificate, pair.key)
            return self.server.ask("/metrics", settings=settings)

        for pair in (client, crowded):
            self.assertEqual(page(pair)[0], 200)
        self.assertEqual(page(stranger)[0], 401)

    def test_the_metrics_of_other_machines_need_a_key(self):
        authority = Authority(self.folder, "authority")
        server = authority.issue("server")
        scraper, scraper_entry = make_key("scraper", "acme", "--roles", "metrics")
        admin, admin_entry = make_key("admin", "acme", "--roles", "admin")
        operator, operator_entry = make_key("operator", "*", "--roles", "admin")
        self.write_keys(scraper_entry, admin_entry, operator_entry)
        self.start("--tls-certificate", server.certificate, "--tls-key", server.key, "--metrics-address", "0.0.0.0:0")
        settings = ssl.create_default_context(cafile=authority.certificate)

        def page(key, path="/metrics"):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            return self.server.ask(path, headers, settings)

        status, text = page(scraper)
        self.assertEqual(status, 200)
        self.assertIn("engram_keys 3", text)
        self.assertEqual(page(operator)[0], 200)
        self.assertEqual(page(None)[0], 401)
        self.assertIn("no key", page(None)[1])
        self.assertEqual(page("wrong"), (401, "unknown key\nHere it is the header Authorization, of a key with the role "
                                              '"metrics".\n'))
        # It tells of all tenants.
        self.assertEqual(page(admin), (403, '/metrics: key "admin" has no role "metrics"\n'))
        for path in ("/healthz", "/readyz"):
            self.assertEqual(page(None, path)[0], 200)

    def test_who_is_refused_cannot_fill_the_log(self):
        self.write_keys()
        self.start()
        for _ in range(20):
            self.assertFalse(self.models("wrong")[0])
        # One in ten seconds.
        lines = [line for line in self.server.log() if line["event"] == "caller_refused"]
        self.assertIn(len(lines), range(1, 10))
        self.assertEqual((lines[0]["method"], lines[0]["message"]), ("Models.List", "unknown key"))


if __name__ == "__main__":
    unittest.main()
