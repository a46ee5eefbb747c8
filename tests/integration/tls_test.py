"""TLS from end to end: the programs, with certificates that openssl makes.

Usage: tls_test.py SOURCE_FOLDER BINARY_FOLDER STUBS_FOLDER
"""
import http.client
import json
import os
import pathlib
import re
import shlex
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
BIN = pathlib.Path(sys.argv.pop(1)).resolve()
STUBS = pathlib.Path(sys.argv.pop(1)).resolve()
sys.path.insert(0, str(ROOT / "tests/support"))

from server_program import (  # noqa: E402: found only now
    C_ARES_LEAKS, LIMIT_SECONDS, MODEL, PROMPT, LoggedServer, eventually, run, start_server)
from test_certificates import Authority, openssl  # noqa: E402

os.environ["LSAN_OPTIONS"] = C_ARES_LEAKS
QUIET = (*MODEL, "--request-log", "off")


class Certificates:
    """What a test of one server plays with."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.authority = Authority(folder, "authority")
        self.other_authority = Authority(folder, "other")
        self.server = self.authority.issue("server")
        self.client = self.authority.issue("client", "DNS:client")


class Server(LoggedServer):
    """mamba-induction as "m", by TLS with the certificate of `certificates`."""

    def __init__(self, certificates, *flags):
        self.certificates = certificates
        super().__init__(BIN, *QUIET, "--tls-certificate", certificates.server.certificate, "--tls-key",
                         certificates.server.key, *flags)
        assert self.grpc, f"engram-server ended: {self.log_text()}"

    def stop(self):
        """Ends it, which must be by itself; returns its whole log."""
        code = super().stop()
        assert code == 0, self.log_text()
        return self.log_text()

    def flags(self, *more):
        """For clients, that believe its authority."""
        return ("--server", self.grpc, "--ca", self.certificates.authority.certificate, *more)

    def shown(self, address=None):
        """The certificate that a new connection is shown."""
        host, port = (address or self.grpc).split(":")
        return ssl.get_server_certificate((host, int(port)))

    def page(self, path="/metrics", client=None, authority=None):
        """An answer of the metrics port, by TLS."""
        settings = ssl.create_default_context(cafile=(authority or self.certificates.authority).certificate)
        if client is not None:
            settings.load_cert_chain(client.certificate, client.key)
        return self.ask(path, settings=settings)[1]

    def metric(self, name):
        return float(re.search(rf"^engram_{name} (\S+)$", self.page(), re.M)[1])


class TlsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.certificates = Certificates(cls.folder.name)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def start(self, *flags):
        server = Server(self.certificates, *flags)
        self.addCleanup(server.stop)
        return server

    def check_runs(self, *command, variables=None):
        done = run(*command, **(variables or {}))
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def check_refused(self, words, *command):
        begin = time.monotonic()
        done = run(*command)
        self.assertEqual(done.returncode, 1, f"{command}\n{done.stdout}\n{done.stderr}")
        self.assertIn(words, done.stderr)
        # It is of no use to try again, as for a server that is away.
        self.assertLess(time.monotonic() - begin, 60)

    def check_python_is_told(self, address, **variables):
        done = run("/usr/bin/python3", ROOT / "clients/python/client.py", address, "m", "3 11 => 7",
                   **{"PYTHONPATH": STUBS, **variables})
        self.assertEqual(done.returncode, 1)
        self.assertIn("Does one of both speak TLS and the other not?", done.stderr)


class OneSidedTest(TlsTest):
    """Clients look at the server's certificate; of them none is asked."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = Server(cls.certificates)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        super().tearDownClass()

    def test_every_client_speaks_tls(self):
        flags = self.server.flags()
        self.assertEqual(self.check_runs(BIN / "engram", "generate", *flags, *PROMPT).strip(), "7")
        self.assertEqual(self.check_runs(BIN / "engram", "health", *flags).strip(), "SERVING")
        bench = json.loads(self.check_runs(BIN / "engram-bench", *flags, "--requests", 4, "--connections", 2, "--json"))
        self.assertEqual(bench["failed"], 0)
        self.check_runs(BIN / "engram-eval", *flags, "--task", "induction-head", "--vocabulary", 16, "--count", 2)
        # Python's gRPC has what it needs from the same variables as all others.
        variables = {"ENGRAM_CA": str(self.certificates.authority.certificate), "PYTHONPATH": str(STUBS)}
        self.check_runs("/usr/bin/python3", ROOT / "clients/python/client.py", self.server.grpc, "m", "3 11 => 7",
                        variables=variables)

    def test_the_health_check_of_the_image_goes_through_it(self):
        check = json.loads(re.search(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.M)[1])
        self.assertEqual(check[0], "engram")
        variables = {"ENGRAM_SERVER": self.server.grpc, "ENGRAM_SERVER_NAME": "localhost",
                     "ENGRAM_CA": str(self.certificates.authority.certificate)}
        self.assertEqual(self.check_runs(BIN / "engram", *check[1:], variables=variables).strip(), "SERVING")

    def test_variables_stand_for_the_flags(self):
        variables = {"ENGRAM_SERVER": self.server.grpc, "ENGRAM_TLS": "true",
                     "ENGRAM_CA": str(self.certificates.authority.certificate), "ENGRAM_SERVER_NAME": "localhost"}
        self.assertEqual(self.check_runs(BIN / "engram", "health", variables=variables).strip(), "SERVING")
        done = run(BIN / "engram", "health", ENGRAM_TLS="perhaps")
        self.assertEqual(done.returncode, 2)
        self.assertIn("ENGRAM_TLS: 'perhaps' is not true or false", done.stderr)

    def test_python_reads_the_switch_as_the_other_clients_do(self):
        variables = {"ENGRAM_CA": str(self.certificates.authority.certificate), "PYTHONPATH": str(STUBS)}
        # What says neither must not make it speak in plain.
        for switch in ("", "y", "perhaps"):
            self.check_runs("/usr/bin/python3", ROOT / "clients/python/client.py", self.server.grpc, "m", "3 11 => 7",
                            variables={"ENGRAM_TLS": switch, **variables})
        self.check_python_is_told(self.server.grpc, ENGRAM_TLS="No", **variables)

    def test_a_plain_client_is_told_so(self):
        self.check_refused("speaks TLS, and this client does not", BIN / "engram", "models", "--server",
                           self.server.grpc)
        self.check_refused("speaks TLS, and this client does not", BIN / "engram", "generate", "--server",
                           self.server.grpc, *PROMPT)
        self.check_refused("speaks TLS, and this client does not", BIN / "engram", "health", "--server",
                           self.server.grpc)
        self.check_python_is_told(self.server.grpc)

    def test_clients_without_tls_cannot_fill_the_log(self):
        server = Server(self.certificates)
        host, port = server.grpc.split(":")
        for _ in range(200):
            with socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS) as plain:
                plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                try:
                    self.assertEqual(plain.recv(1), b"")
                except ConnectionResetError:
                    pass
        # One every ten seconds, and in so many seconds it is never all of them.
        told = server.stop().count('"event":"tls_handshake_failed"')
        self.assertIn(told, range(1, 20))

    def test_a_server_of_another_authority_is_not_believed(self):
        other = self.certificates.other_authority.certificate
        self.check_refused(f"has a certificate of no authority that is in {other}", BIN / "engram", "models",
                           "--server", self.server.grpc, "--ca", other)
        self.check_refused("give --ca FILE", BIN / "engram", "models", "--server", self.server.grpc, "--tls")

    def test_the_name_is_the_one_that_was_asked_for(self):
        self.check_runs(BIN / "engram", "models", *self.server.flags("--server-name", "localhost"))
        self.check_refused("has a certificate for localhost, 127.0.0.1 and not for elsewhere", BIN / "engram",
                           "models", *self.server.flags("--server-name", "elsewhere"))

    def test_files_of_clients_that_cannot_be_used_are_named(self):
        for flag, file, words in (("--ca", "/nowhere", "/nowhere cannot be read: No such file"),
                                  ("--ca", self.certificates.server.key, "has no certificate in PEM")):
            self.check_refused(words, BIN / "engram", "models", "--server", self.server.grpc, flag, file)
        pair = self.certificates.client
        self.check_refused("belong together", BIN / "engram", "models", *self.server.flags("--key", pair.key))
        self.check_refused("does not belong to the certificate", BIN / "engram", "models", *self.server.flags(
            "--certificate", pair.certificate, "--key", self.certificates.server.key))

    def test_old_protocols_and_weak_suites_are_refused_on_both_ports(self):
        for address in (self.server.grpc, self.server.metrics):
            host, port = address.split(":")
            for version, suites, accepted in ((ssl.TLSVersion.TLSv1_3, "DEFAULT", True),
                                              (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256", True),
                                              (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA", False),
                                              (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256", False),
                                              (ssl.TLSVersion.TLSv1_1, "DEFAULT:@SECLEVEL=0", False)):
                with self.subTest(address=address, version=version, suites=suites):
                    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                    settings.check_hostname = False
                    settings.verify_mode = ssl.CERT_NONE
                    settings.minimum_version = settings.maximum_version = version
                    settings.set_ciphers(suites)
                    settings.set_alpn_protocols(["h2"])
                    with socket.create_connection((host, int(port))) as plain:
                        if accepted:
                            settings.wrap_socket(plain).close()
                        else:
                            with self.assertRaises((ssl.SSLError, OSError)):
                                settings.wrap_socket(plain)

    def test_the_metrics_port_speaks_tls_only(self):
        self.assertIn("engram_num_requests_running", self.server.page())
        self.assertEqual(self.server.page("/healthz").strip(), "serving")
        with self.assertRaises(ssl.SSLError):
            self.server.page(authority=self.certificates.other_authority)
        host, port = self.server.metrics.split(":")
        plain = http.client.HTTPConnection(host, int(port), timeout=LIMIT_SECONDS)
        with self.assertRaises((http.client.HTTPException, OSError)):
            plain.request("GET", "/metrics")
            plain.getresponse()
        plain.close()

    def test_the_end_of_the_certificate_is_a_metric(self):
        end = subprocess.run(["openssl", "x509", "-noout", "-enddate"], input=self.server.shown(), capture_output=True,
                             text=True, check=True).stdout.strip().removeprefix("notAfter=")
        self.assertEqual(self.server.metric("tls_certificate_expiry_seconds"), ssl.cert_time_to_seconds(end))
        self.assertEqual(self.server.metric("tls_reload_failures_total"), 0)

    def test_what_the_dashboard_and_the_alerts_ask_of_tls_is_there(self):
        page = self.server.page()
        for file in ("dashboard.json", "alerts.yml"):
            names = set(re.findall(r"engram_tls_\w+", (ROOT / "deploy/monitoring" / file).read_text()))
            self.assertTrue(names, file)
            for name in names:
                self.assertIn(f"# TYPE {name} ", page, file)

    def test_a_hello_is_answered_and_leaves_no_trace_in_the_log(self):
        # As the server's own probe does it.
        server = Server(self.certificates)
        hello = ssl.MemoryBIO()
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
        with self.assertRaises(ssl.SSLWantReadError):
            client.do_handshake()
        host, port = server.grpc.split(":")
        with socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS) as plain:
            plain.sendall(hello.read())
            self.assertEqual(plain.recv(1), b"\x16")
        self.check_runs(BIN / "engram", "health", *server.flags())
        events = re.findall(r'"event":"(\w+)"', server.stop())
        self.assertEqual(events, ["model_loaded", "listening", "drain_begun", "drain_ended"])


class MutualTest(TlsTest):
    """Clients must show a certificate too."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = Server(cls.certificates, "--tls-client-ca", cls.certificates.authority.certificate)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        super().tearDownClass()

    def show(self, pair):
        return self.server.flags("--certificate", pair.certificate, "--key", pair.key)

    def test_a_client_with_a_certificate_of_the_authority_is_served(self):
        flags = self.show(self.certificates.client)
        self.assertEqual(self.check_runs(BIN / "engram", "generate", *flags, *PROMPT).strip(), "7")
        self.assertEqual(self.check_runs(BIN / "engram", "health", *flags).strip(), "SERVING")
        variables = {"ENGRAM_CA": str(self.certificates.authority.certificate), "PYTHONPATH": str(STUBS),
                     "ENGRAM_CERTIFICATE": str(self.certificates.client.certificate),
                     "ENGRAM_KEY": str(self.certificates.client.key), "ENGRAM_SERVER_NAME": "localhost"}
        self.check_runs("/usr/bin/python3", ROOT / "clients/python/client.py", self.server.grpc, "m", "3 11 => 7",
                        variables=variables)
        self.assertIn("engram_", self.server.page(client=self.certificates.client))

    def test_a_client_without_a_certificate_is_told_what_it_lacks(self):
        self.check_refused("serves only clients that have a certificate: give --certificate FILE and --key FILE",
                           BIN / "engram", "models", *self.server.flags())
        with self.assertRaises((ssl.SSLError, OSError, http.client.HTTPException)):
            self.server.page()

    def test_a_client_of_another_authority_is_refused(self):
        stranger = self.certificates.other_authority.issue("stranger", "DNS:client")
        self.check_refused("does not take the certificate", BIN / "engram", "models", *self.show(stranger))
        with self.assertRaises((ssl.SSLError, OSError, http.client.HTTPException)):
            self.server.page(client=stranger)

    def test_a_client_whose_certificate_has_expired_is_refused(self):
        expired = self.certificates.authority.issue("late", "DNS:client", days=-1)
        # Its own program sees it first.
        self.check_refused(f"the certificate {expired.certificate} expired on", BIN / "engram", "models",
                           *self.show(expired))
        with self.assertRaises((ssl.SSLError, OSError, http.client.HTTPException)):
            self.server.page(client=expired)
        host, port = self.server.grpc.split(":")
        settings = ssl.create_default_context(cafile=self.certificates.authority.certificate)
        settings.load_cert_chain(expired.certificate, expired.key)
        settings.set_alpn_protocols(["h2"])
        with socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS) as plain:
            try:
                with settings.wrap_socket(plain, server_hostname="localhost") as secure:
                    self.assertEqual(secure.recv(1), b"")
            except (ssl.SSLError, ConnectionError):
                pass


class RotationTest(TlsTest):
    def setUp(self):
        # Each test spoils what it was given.
        self.certificates = Certificates(tempfile.mkdtemp(dir=self.folder.name))

    def test_the_certificate_changes_under_load_and_no_call_fails(self):
        server = self.start()
        shown = server.shown()
        bench = subprocess.Popen(
            [BIN / "engram-bench", *server.flags(), "--concurrency", "32", "--connections", "8", "--duration", "3s",
             "--prompt-tokens", "8", "--output-tokens", "128", "--json"], stdout=subprocess.PIPE, text=True)
        for number in range(2):
            new = self.certificates.authority.issue(f"new{number}", "DNS:localhost,IP:127.0.0.1", days=3 + number)
            self.certificates.server.replace_by(new)

            def is_shown():
                # New connections, whatever is going on.
                self.assertEqual(self.check_runs(BIN / "engram", "health", *server.flags()).strip(), "SERVING")
                return server.shown() != shown

            eventually(is_shown, "the new pair is shown")
            shown = server.shown()
            self.assertEqual(shown.strip(), new.certificate.read_text().strip())
            self.assertEqual(server.shown(server.metrics), shown)
        self.assertIsNone(bench.poll(), "the load has ended before the changes")
        report = json.loads(bench.communicate(timeout=LIMIT_SECONDS)[0])
        self.assertEqual(report["failed"], 0, report)
        self.assertGreater(report["succeeded"], 32)
        self.assertEqual(server.metric("tls_reload_failures_total"), 0)
        eventually(lambda: server.log_text().count('"event":"tls_reloaded"') == 2, "both changes are logged")

    def test_a_damaged_key_keeps_the_old_one_until_a_whole_pair_comes(self):
        server = self.start()
        shown, end = server.shown(), server.metric("tls_certificate_expiry_seconds")
        self.certificates.server.key.write_text("-----BEGIN PRIVATE KEY-----\nnothing\n")
        eventually(lambda: server.metric("tls_reload_failures_total") == 1, "the damage is counted")
        eventually(lambda: f"the key {self.certificates.server.key} has no private key in PEM" in server.log_text(),
                   "the log says what is wrong")
        self.assertEqual(server.shown(), shown)
        self.assertEqual(server.metric("tls_certificate_expiry_seconds"), end)
        self.check_runs(BIN / "engram", "health", *server.flags())
        new = self.certificates.authority.issue("new", days=5)
        self.certificates.server.replace_by(new)
        eventually(lambda: server.shown() != shown, "the new pair is shown")
        self.assertEqual(server.metric("tls_reload_failures_total"), 1)
        self.assertGreater(server.metric("tls_certificate_expiry_seconds"), end)

    def test_the_authority_of_clients_changes_too(self):
        believed = self.certificates.folder / "believed.crt"
        believed.write_bytes(self.certificates.authority.certificate.read_bytes())
        server = self.start("--tls-client-ca", believed)
        other = self.certificates.other_authority.issue("other-client", "DNS:client")
        command = (BIN / "engram", "health", *server.flags("--certificate", other.certificate, "--key", other.key))
        self.check_refused("does not take the certificate", *command)
        believed.write_bytes(self.certificates.other_authority.certificate.read_bytes())
        eventually(lambda: run(*command).returncode == 0, "clients of the new authority are served")
        self.assertIn("engram_", server.page(client=other))
        with self.assertRaises((ssl.SSLError, OSError, http.client.HTTPException)):
            server.page(client=self.certificates.client)


class ClientTest(TlsTest):
    """Against what is no server with a right certificate."""

    def serve(self, pair=None, authority=None, waits=True):
        """Ends connections that said something, or (without `waits`) at once, by TLS with `pair` or as they come; its
        address. Clients must have a certificate of `authority`, if there is one."""
        settings = None
        if pair is not None:
            settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            settings.load_cert_chain(pair.certificate, pair.key)
            settings.set_alpn_protocols(["h2"])
            if authority is not None:
                settings.verify_mode = ssl.CERT_REQUIRED
                settings.load_verify_locations(authority.certificate)
        listener = socket.create_server(("127.0.0.1", 0))

        def answer():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                try:
                    if settings is not None:
                        connection = settings.wrap_socket(connection, server_side=True)
                    if waits:
                        connection.recv(1)
                except OSError:
                    pass
                connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        self.addCleanup(listener.close)
        self.addCleanup(thread.join)
        self.addCleanup(listener.shutdown, socket.SHUT_RDWR)
        return "127.0.0.1:%d" % listener.getsockname()[1]

    def test_a_server_whose_certificate_has_expired_is_not_believed(self):
        address = self.serve(self.certificates.authority.issue("expired", days=-1))
        self.check_refused("has a certificate that expired on", BIN / "engram", "models", "--server", address, "--ca",
                           self.certificates.authority.certificate)

    def test_what_fails_behind_tls_is_not_laid_to_certificates(self):
        # As a proxy does that has no server: it waits for the client to speak, or ends the connection.
        shown = ("--certificate", self.certificates.client.certificate, "--key", self.certificates.client.key)
        for authority, waits, flags in ((None, True, ()), (None, False, ()), (self.certificates.authority, True, shown)):
            with self.subTest(authority=authority, waits=waits):
                address = self.serve(self.certificates.server, authority, waits)
                done = run(BIN / "engram", "models", "--retries", 0, "--server", address, "--ca",
                           self.certificates.authority.certificate, *flags)
                self.assertEqual(done.returncode, 1)
                self.assertIn("UNAVAILABLE", done.stderr)

    def test_a_tls_client_at_a_plain_server_is_told_so(self):
        process, address, _ = start_server(BIN, *QUIET)
        try:
            for verb in ("models", "health"):
                self.check_refused("does not speak TLS, and this client does", BIN / "engram", verb, "--server",
                                   address, "--tls")
            self.check_python_is_told(address, ENGRAM_TLS="true")
            # Said last, a flag outdoes a variable.
            self.check_runs(BIN / "engram", "models", "--server", address, "--tls=false",
                            variables={"ENGRAM_TLS": "true"})
        finally:
            process.terminate()
            process.wait(timeout=LIMIT_SECONDS)
            process.stdout.close()


class DocumentTest(TlsTest):
    def test_the_commands_of_the_document_work_as_written(self):
        section = re.search(r"^## TLS$(.*?)^## ", (ROOT / "deploy/README.md").read_text(), re.M | re.S)[1]
        lines = re.search(r"^```sh\n(.*?)^```", section, re.M | re.S)[1].splitlines()
        ports = {}
        self.assertEqual([line.split()[0] for line in lines], ["openssl", "engram-server", "engram", "curl"])
        for line in lines:
            words = shlex.split(line)
            if words[0] == "engram-server":
                process, *addresses = start_server(BIN, *QUIET, *words[1:], cwd=self.folder.name)
                self.addCleanup(process.stdout.close)
                self.addCleanup(process.wait)
                self.addCleanup(process.terminate)
                ports = {f"localhost:{documented}": f"localhost:{address.split(':')[1]}"
                         for documented, address in zip((8001, 8002), addresses)}
                continue
            for documented, port in ports.items():
                words = [word.replace(documented, port) for word in words]
            done = subprocess.run(words, cwd=self.folder.name, capture_output=True, text=True, timeout=LIMIT_SECONDS,
                                  env=dict(os.environ, PATH=f"{BIN}:{os.environ['PATH']}"))
            self.assertEqual(done.returncode, 0, f"{line}\n{done.stderr}")
        self.assertIn("engram_tls_certificate_expiry_seconds", done.stdout)


class CostTest(unittest.TestCase):
    def test_what_tls_costs_can_be_measured(self):
        # In so short a time the numbers themselves say nothing, and so does the exit code.
        done = run(ROOT / "scripts/tls-cost", "--build", BIN.parent, "--rounds", 1, "--seconds", 1)
        self.assertRegex(done.stdout, r"32 streams of mamba-english: \d+ tokens/s, by TLS \d+: [\d.]+ of it \([\d.]+ to [\d.]+\)\n"
                                      r"handshakes/s: \d+\n", done.stderr)
        self.assertIn(done.returncode, (0, 1))


class StartTest(TlsTest):
    def test_what_cannot_be_served_is_told_by_file_and_reason(self):
        certificates, folder = self.certificates, pathlib.Path(self.folder.name)
        good = certificates.server
        expired = certificates.authority.issue("past", days=-1)
        text = folder / "text"
        text.write_text("no PEM\n")
        secret = folder / "secret.key"
        openssl("pkey", "-in", good.key, "-aes128", "-passout", "pass:word", "-out", secret)
        missing = folder / "missing"
        weak = folder / "weak"
        openssl("req", "-x509", "-newkey", "rsa:1024", "-nodes", "-subj", "/CN=weak", "-keyout", f"{weak}.key", "-out",
                f"{weak}.crt")
        for certificate, key, authority, words in (
                (missing, good.key, None, f"the certificate {missing} cannot be read: No such file or directory"),
                (folder, good.key, None, f"the certificate {folder} cannot be read: Is a directory"),
                (text, good.key, None, f"the certificate {text} has no certificate in PEM"),
                (good.certificate, missing, None, f"the key {missing} cannot be read: No such file or directory"),
                (good.certificate, text, None, f"the key {text} has no private key in PEM"),
                (good.certificate, secret, None, f"the key {secret} has a passphrase: give one without"),
                (good.certificate, expired.key, None,
                 f"the key {expired.key} does not belong to the certificate {good.certificate}"),
                (expired.certificate, expired.key, None, f"the certificate {expired.certificate} expired on "),
                (f"{weak}.crt", f"{weak}.key", None, f"the certificate {weak}.crt is of no use for TLS: ee key too small"),
                (good.certificate, good.key, missing, f"the certificate authority {missing} cannot be read"),
                (good.certificate, good.key, good.key, "has no certificate in PEM"),
                (good.certificate, good.key, expired.certificate,
                 f"the certificate authority {expired.certificate} expired on ")):
            with self.subTest(words):
                flags = () if authority is None else ("--tls-client-ca", authority)
                done = run(BIN / "engram-server", *QUIET, "--grpc-address", "127.0.0.1:0", "--metrics-address",
                           "127.0.0.1:0", "--tls-certificate", certificate, "--tls-key", key, *flags)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(words, json.loads(done.stderr.splitlines()[-1])["message"])

    def test_flags_that_need_each_other_are_told_so(self):
        for flags, words in ((("--tls-certificate", "x"), "--tls-key is missing"),
                             (("--tls-key", "x"), "--tls-certificate is missing"),
                             (("--tls-client-ca", "x"), "--tls-client-ca needs --tls-certificate and --tls-key")):
            done = run(BIN / "engram-server", *flags)
            self.assertEqual(done.returncode, 1)
            self.assertIn(words, done.stderr)


if __name__ == "__main__":
    unittest.main()
