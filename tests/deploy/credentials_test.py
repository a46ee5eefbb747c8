"""deploy/make-credentials, and a server that is open to a network as deploy/compose.yaml and the image say.

Usage: credentials_test.py SOURCE_FOLDER BINARY_FOLDER STUBS_FOLDER
"""
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import unittest

import yaml

from deploy_support import BIN, ROOT, Credentials, Process

from server_program import C_ARES_LEAKS, MODEL, run, start_server

os.environ["LSAN_OPTIONS"] = C_ARES_LEAKS

SCRIPT = ROOT / "deploy/make-credentials"
COMPOSE = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


class MakeCredentialsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name) / "new/credentials"
        self.server = self.folder / "server"

    def make(self, *arguments):
        done = run(SCRIPT, "--folder", self.folder, *arguments)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def contents(self):
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}

    def certificate(self, *arguments):
        return run("openssl", "x509", "-in", self.server / "server.crt", "-noout", *arguments).stdout

    def test_what_is_there_is_kept_and_what_is_private_is_the_owners_alone(self):
        self.assertIn("made a certificate for", self.make())
        before = self.contents()
        self.assertEqual({str(path.relative_to(self.folder)) for path in before},
                         {"ca.crt", "ca.key", "user.key", "operator.key", "metrics.key", "server/ca.crt",
                          "server/server.crt", "server/server.key", "server/server.pem", "server/keys.json"})
        for path in before:
            expected = 0o644 if path.suffix == ".crt" else 0o600
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), expected, path)
            if path.suffix == ".crt":
                self.assertNotIn(b"PRIVATE", before[path])
        for folder in (self.folder, self.server):
            self.assertEqual(stat.S_IMODE(folder.stat().st_mode), 0o700)
        self.assertEqual(self.make(), "")
        self.assertEqual(self.contents(), before)

    def test_keys_are_kept_by_their_hash_only(self):
        self.make()
        text = (self.server / "keys.json").read_text()
        hashes = {key["name"]: key["sha256"] for key in json.loads(text)["keys"]}
        for name in ("user", "operator", "metrics"):
            key = (self.folder / f"{name}.key").read_text().strip()
            self.assertRegex(key, r"^engram-[\w-]{43}$")
            self.assertNotIn(key, text)
            self.assertEqual(hashes.pop(name), hashlib.sha256(key.encode()).hexdigest())
        self.assertEqual(hashes, {})

    def test_a_certificate_is_made_anew_for_another_name_or_when_asked_and_the_authority_stays(self):
        self.make()
        first, authority = self.certificate("-serial"), (self.folder / "ca.crt").read_bytes()
        self.make("engram.example", "192.0.2.7")
        second = self.certificate("-serial")
        self.assertNotEqual(first, second)
        names = self.certificate("-ext", "subjectAltName")
        for name in ("engram", "localhost", "engram.example", "127.0.0.1", "192.0.2.7"):
            self.assertRegex(names, rf":{re.escape(name)}\b")
        # It has them all: nothing to do.
        self.make("engram.example", "localhost")
        self.assertEqual(self.certificate("-serial"), second)
        self.make("--renew")
        self.assertNotEqual(self.certificate("-serial"), second)
        self.assertIn("engram.example", self.certificate("-ext", "subjectAltName"))
        self.assertEqual((self.folder / "ca.crt").read_bytes(), authority)
        done = run("openssl", "verify", "-CAfile", self.folder / "ca.crt", "-purpose", "sslserver", "-verify_hostname",
                   "engram.example", self.server / "server.crt")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_authoritys_key_may_be_elsewhere_until_it_is_needed(self):
        self.make()
        (self.folder / "ca.key").unlink()
        self.assertEqual(self.make(), "")
        done = run(SCRIPT, "--folder", self.folder, "--renew")
        self.assertEqual(done.returncode, 1)
        self.assertIn("put ca.key back into", done.stderr)

    def test_damage_is_mended(self):
        self.make()
        (self.server / "server.key").write_text("")
        self.assertIn("made a certificate", self.make())
        self.assertEqual(self.make(), "")

    def test_certificate_and_key_in_one_are_those_that_are_there(self):
        self.make()
        one, pair = self.server / "server.pem", (self.server / "server.crt", self.server / "server.key")
        of_before = one.read_bytes()
        self.make("--renew")
        renewed = b"".join(path.read_bytes() for path in pair)
        self.assertEqual(one.read_bytes(), renewed)
        # They are enough: nobody has to bring the authority's key back.
        (self.folder / "ca.key").unlink()
        for damage in (of_before, b""):
            one.write_bytes(damage)
            self.assertIn("made server/server.pem of", self.make())
            self.assertEqual(one.read_bytes(), renewed)
            self.assertEqual(stat.S_IMODE(one.stat().st_mode), 0o600)
        self.assertEqual(self.make(), "")

    def test_without_random_numbers_there_is_no_key(self):
        # One whose `rand` fails, and one whose `rand` gives too little.
        for number, (rand, words) in enumerate((("exit 1", "openssl rand failed"),
                                                ("echo c2hvcnQ=; exit 0", "openssl rand did not give 256 bits"))):
            with self.subTest(rand):
                self.make()
                key = self.folder / "user.key"
                key.unlink()
                (self.server / "keys.json").unlink()
                programs = self.folder.parent / f"programs-{number}"
                programs.mkdir()
                openssl = programs / "openssl"
                openssl.write_text(f'#!/bin/sh\n[ "$1" != rand ] || {{ {rand}; }}\nexec {shutil.which("openssl")} "$@"\n')
                openssl.chmod(0o755)
                done = run(SCRIPT, "--folder", self.folder, PATH=f"{programs}:{os.environ['PATH']}")
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertIn(words, done.stderr)
                self.assertFalse(key.exists())
                self.assertFalse((self.server / "keys.json").exists())

    def test_wrong_use_is_told(self):
        for arguments, words in ((("a b",), "'a b' is neither a host name nor an address"),
                                 (("--fodler", "x"), "unknown argument '--fodler'"),
                                 (("--folder",), "--folder takes the name of a folder")):
            done = run(SCRIPT, *arguments)
            self.assertEqual(done.returncode, 1)
            self.assertIn(words, done.stderr)


class ComposeTest(unittest.TestCase):
    """The services as compose.yaml has them, without containers: their commands, files and variables."""

    @classmethod
    def setUpClass(cls):
        cls.credentials = Credentials()
        cls.volumes = tempfile.TemporaryDirectory()
        folder = pathlib.Path(cls.volumes.name)
        service = COMPOSE["services"]["credentials"]
        shell, command = service["entrypoint"], service["command"][0]
        for name in ("engram", "prometheus"):
            (folder / name).mkdir()
        # Only who is root could give files away.
        owned = re.sub(r" -o \d+", "", command)
        subprocess.run([*shell, owned.replace("/made", str(cls.credentials.folder)).replace("/of", str(folder))],
                       check=True)
        cls.given = folder / "engram"
        # The image's variables, and the service's over them, on free ports.
        variables = dict(re.findall(r"(ENGRAM_\w+)=(\S+)", re.search(r"^ENV ENGRAM_ZOO.*?[^\\]$", DOCKERFILE, re.M | re.S)[0]))
        variables |= COMPOSE["services"]["engram"]["environment"]
        cls.variables = {name: str(value).replace("/credentials", str(cls.given)) for name, value in variables.items()}
        del cls.variables["ENGRAM_ZOO"]
        addresses = {name: re.sub(r":\d+$", ":0", value) for name, value in cls.variables.items()
                     if name.endswith("_ADDRESS")}
        cls.flags = ("--grpc-address", addresses["ENGRAM_GRPC_ADDRESS"], "--metrics-address",
                     addresses["ENGRAM_METRICS_ADDRESS"])
        process, grpc_address, _ = start_server(BIN, *MODEL, *cls.flags, env=dict(os.environ, **cls.variables))
        cls.process = Process(process)
        assert grpc_address, "engram-server ended"
        cls.port = grpc_address.rsplit(":", 1)[1]

    @classmethod
    def tearDownClass(cls):
        cls.process.stop()
        cls.credentials.remove()
        cls.volumes.cleanup()

    def test_the_server_listens_on_all_addresses(self):
        self.assertEqual([flag.rsplit(":", 1)[0] for flag in self.flags[1::2]], ["0.0.0.0", "0.0.0.0"])

    def test_the_image_without_more_is_not_open_to_a_network(self):
        done = run(BIN / "engram-server", *MODEL, *self.flags)
        self.assertEqual(done.returncode, 1)
        self.assertIn("can be reached by other machines, which takes TLS and keys: give --tls-certificate, --tls-key, --keys, or",
                      json.loads(done.stderr.splitlines()[-1])["message"])

    def test_every_first_example_of_the_image_says_that_it_is_insecure(self):
        for document in ("Dockerfile", "deploy/README.md"):
            first = re.search(r"docker run -p .*? engram\b.*", (ROOT / document).read_text())[0]
            self.assertIn("--insecure", first, document)

    def test_the_health_check_of_the_image_passes(self):
        check = json.loads(re.search(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", DOCKERFILE, re.M)[1])
        variables = dict(self.variables, ENGRAM_SERVER=self.variables["ENGRAM_SERVER"].replace(":8001", f":{self.port}"))
        done = run(BIN / check[0], *check[1:], **variables)
        self.assertEqual((done.returncode, done.stdout), (0, "SERVING\n"), done.stderr)

    def test_the_example_at_its_head_works_as_written(self):
        text = (ROOT / "deploy/compose.yaml").read_text()
        example = re.search(r"^#   (engram models .*?)\n#\n", text, re.M | re.S)[1].replace("\\\n#", "")
        words = [word.replace("engram.example:8001", f"localhost:{self.port}")
                 .replace("deploy/credentials", str(self.credentials.folder)) for word in shlex.split(example)]
        done = run(BIN / words[0], *words[1:])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("mamba", done.stdout)
        without = run(BIN / words[0], *words[1:words.index("--api-key-file")])
        self.assertEqual(without.returncode, 1)
        self.assertIn("UNAUTHENTICATED", without.stderr)

    def test_files_are_given_to_the_users_of_the_images(self):
        command = COMPOSE["services"]["credentials"]["command"][0]
        user = re.search(r"^USER (\d+):", DOCKERFILE, re.M)[1]
        for line in command.splitlines():
            mode, owner, source = re.match(r"install -m (\d+)(?: -o (\d+))? (\S+) ", line).groups()
            if source.endswith(".crt"):
                self.assertEqual((mode, owner), ("444", None), line)
            else:
                # That of prometheus is nobody.
                self.assertEqual((mode, owner), ("400", user if "/of/engram/" in line else "65534"), line)

    def test_nobody_signs_in_to_grafana(self):
        settings = COMPOSE["services"]["grafana"]["environment"]
        # By its page, and by a name and a password with each request.
        self.assertEqual((settings["GF_AUTH_DISABLE_LOGIN_FORM"], settings["GF_AUTH_BASIC_ENABLED"]), ("true", "false"))
        self.assertEqual(settings["GF_AUTH_ANONYMOUS_ORG_ROLE"], "Viewer")

    def test_no_service_has_what_only_the_owner_needs(self):
        command = COMPOSE["services"]["credentials"]["command"][0]
        for private in ("ca.key", "user.key", "operator.key"):
            self.assertNotIn(private, command)
        for name, service in COMPOSE["services"].items():
            if name != "credentials":
                self.assertNotIn("./credentials", "".join(service.get("volumes", [])), name)


if __name__ == "__main__":
    unittest.main()
