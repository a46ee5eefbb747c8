"""deploy/monitoring: the rules as promtool sees them, and a real Prometheus that
scrapes a real server and evaluates them.

Usage: monitoring_test.py SOURCE_FOLDER BINARY_FOLDER STUBS_FOLDER
"""
import json
import pathlib
import re
import subprocess
import tempfile
import unittest
import urllib.request

from deploy_support import ROOT, Credentials, EngramServer, Process, free_port, program

import grpc
from engram.v1 import generation_pb2, generation_pb2_grpc
from server_program import eventually

MONITORING = ROOT / "deploy/monitoring"


def alerts():
    """Name and text of each alert."""
    parts = re.split(r"^ *- alert: (\w+)\n", (MONITORING / "alerts.yml").read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def anchors(document):
    """Of its headings, as GitHub and GitLab make them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


class RulesTest(unittest.TestCase):
    def run_promtool(self, *arguments):
        done = subprocess.run([program("promtool"), *arguments], cwd=MONITORING, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_promtool_accepts_configuration_and_rules(self):
        credentials = Credentials()
        self.addCleanup(credentials.remove)
        # It looks whether the files are there.
        configuration = credentials.folder / "prometheus.yml"
        configuration.write_text((MONITORING / "prometheus.yml").read_text()
                                 .replace("/credentials", str(credentials.folder))
                                 .replace("alerts.yml", str(MONITORING / "alerts.yml")))
        self.run_promtool("check", "config", configuration)

    def test_the_unit_tests_of_the_alerts_pass(self):
        self.run_promtool("test", "rules", "alerts_test.yml")

    def test_every_alert_has_a_unit_test_in_which_it_fires(self):
        tests = (MONITORING / "alerts_test.yml").read_text()
        fired = set(re.findall(r"alertname: (\w+)\n +exp_alerts:", tests))
        self.assertEqual(fired, set(alerts()))

    def test_every_alert_links_to_a_runbook_that_exists(self):
        for name, text in alerts().items():
            with self.subTest(name):
                document, anchor = re.search(r"runbook_url: (\S+)#(\S+)", text).groups()
                self.assertIn(anchor, anchors(ROOT / document))


class PrometheusTest(unittest.TestCase):
    """One server with room for one request that runs and one that waits."""

    @classmethod
    def setUpClass(cls):
        cls.credentials = Credentials()
        # Not of loopback, where metrics are for everybody.
        cls.server = EngramServer("--slots", "1", "--max-queue", "1", "--metrics-address", "0.0.0.0:0",
                                  *cls.credentials.flags())
        cls.folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(cls.folder.name)
        # The very rules, but nothing has to last before it is told.
        rules = (MONITORING / "alerts.yml").read_text()
        (folder / "alerts.yml").write_text(re.sub(r"^ *for: .*\n", "", rules, flags=re.M))
        # The very configuration, but for the target and the pace.
        configuration = (MONITORING / "prometheus.yml").read_text()
        configuration = configuration.replace("engram:8002", cls.server.metrics)
        configuration = configuration.replace("/credentials", str(cls.credentials.folder))
        configuration = re.sub(r"_interval: \d+s", "_interval: 500ms", configuration)
        (folder / "prometheus.yml").write_text(configuration)
        cls.address = f"127.0.0.1:{free_port()}"
        cls.prometheus = Process(subprocess.Popen(
            [program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address={cls.address}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    @classmethod
    def tearDownClass(cls):
        cls.prometheus.stop()
        cls.server.stop()
        cls.credentials.remove()
        cls.folder.cleanup()

    def ask(self, path):
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}", timeout=10) as answer:
                return json.load(answer)["data"]
        except OSError:
            return {}  # it still starts

    def evaluated(self):
        """The names of the rules that have been evaluated without an error."""
        return sorted(rule["name"] for group in self.ask("rules").get("groups", []) for rule in group["rules"]
                      if rule["health"] == "ok")

    def firing(self):
        return {alert["labels"]["alertname"] for alert in self.ask("alerts").get("alerts", [])
                if alert["state"] == "firing"}

    def test_scrapes_and_tells_of_the_first_burst_of_refusals(self):
        targets = eventually(lambda: [target for target in self.ask("targets").get("activeTargets", [])
                                      if target["health"] == "up"], "the target is up")
        self.assertEqual([target["labels"]["job"] for target in targets], ["engram"])
        # A scrape from before the burst, so that it is an increase.
        eventually(lambda: self.evaluated() == sorted(alerts()), "all rules are evaluated")
        # Before the first scrape there was no server.
        eventually(lambda: not self.firing(), "no alert fires")

        endless = generation_pb2.GenerateRequest(model="m")
        endless.token_ids.ids.append(1)
        endless.stopping.max_tokens = 1 << 20
        endless.stopping.ignore_eos = True
        with self.credentials.channel(self.server.grpc) as channel:
            stub = generation_pb2_grpc.GenerationStub(channel)
            # More at once than there is room for; one runs, one waits.
            calls = [stub.Generate(endless) for _ in range(20)]
            refused = eventually(lambda: self.ended(calls, 18), "the rest is refused")
            self.assertEqual({call.code() for call in refused}, {grpc.StatusCode.UNAVAILABLE})
            for call in calls:
                call.cancel()
        eventually(lambda: "EngramRefusesRequests" in self.firing(), "the alert fires")

        self.server.stop()
        eventually(lambda: "EngramDown" in self.firing(), "the alert for a server that is gone fires")

    @staticmethod
    def ended(calls, count):
        """Those that have ended, if they are as many."""
        done = [call for call in calls if not call.is_active()]
        return done if len(done) >= count else None


if __name__ == "__main__":
    unittest.main()
