"""deploy/haproxy: a real HAProxy in front of two real servers, by TLS and with keys.

Usage: proxy_test.py SOURCE_FOLDER BINARY_FOLDER STUBS_FOLDER
"""
import os
import re
import signal
import subprocess
import unittest

from deploy_support import ROOT, Credentials, EngramServer, Process, accepts, free_port, program

import grpc
from engram.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from server_program import LIMIT_SECONDS, eventually

CONFIGURATION = ROOT / "deploy/haproxy/haproxy.cfg"


def turn(session="", max_tokens=1):
    request = generation_pb2.GenerateRequest(model="m", session_id=session)
    request.token_ids.ids.append(1)
    request.stopping.max_tokens = max_tokens
    request.stopping.ignore_eos = True
    return request


def of(session):
    """The metadata of a call about a session."""
    return [("x-session-id", session)]


class Site:
    """Two servers, HAProxy in front of them, and a client of each."""

    def __init__(self, cleanup, second=None):
        self.cleanup = cleanup
        self.credentials = Credentials()
        cleanup(self.credentials.remove)
        self.servers = []
        for _ in range(1 if second else 2):
            # Not of loopback, where probes and metrics are for everybody.
            self.servers.append(EngramServer("--drain-timeout", f"{LIMIT_SECONDS}s", "--metrics-address", "0.0.0.0:0",
                                             *self.credentials.flags()))
            cleanup(self.servers[-1].stop)
        self.servers += [second] if second else []
        self.address = f"127.0.0.1:{free_port()}"
        environment = dict(os.environ, LISTEN=self.address, TLS=str(self.credentials.server))
        for number, server in enumerate(self.servers, 1):
            host, port = server.grpc.split(":")
            environment |= {f"SERVER_{number}": host, f"SERVER_{number}_GRPC": port,
                            f"SERVER_{number}_METRICS": server.metrics.split(":")[1]}
        self.proxy = Process(subprocess.Popen([program("haproxy"), "-f", CONFIGURATION], env=environment,
                                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        cleanup(self.proxy.stop)
        self.generation, self.sessions = self.stubs(self.address)
        eventually(self.answers, "the proxy answers")

    def stubs(self, address):
        # A channel that is refused once takes its time before it tries again.
        eventually(lambda: accepts(address), f"{address} is open")
        channel = self.credentials.channel(address)
        self.cleanup(channel.close)
        return generation_pb2_grpc.GenerationStub(channel), sessions_pb2_grpc.SessionsStub(channel)

    def answers(self):
        try:
            self.run(turn())
            return True
        except grpc.RpcError:
            return False

    def run(self, request, metadata=()):
        """The end of a turn."""
        *_, last = self.generation.Generate(request, metadata=metadata, timeout=LIMIT_SECONDS)
        return last.completed

    def sessions_of(self, server):
        _, sessions = self.stubs(server.grpc)
        listed = sessions.List(sessions_pb2.ListSessionsRequest(page_size=100), timeout=LIMIT_SECONDS)
        return {session.session_id for session in listed.sessions}

    def page_of(self, server):
        return self.credentials.page(f"https://{server.metrics}/metrics")

    def turns_of(self, server):
        """How many a server has run."""
        counts = re.findall(r'^engram_requests_total\{[^}]*code="OK"[^}]*method="Generate"[^}]*\} (\S+)$',
                            self.page_of(server), re.M)
        return sum(map(float, counts))


class ProxyTest(unittest.TestCase):
    def setUp(self):
        self.site = Site(self.addCleanup)

    def test_every_turn_of_a_session_goes_to_the_server_that_has_it(self):
        names = [f"session-{i}" for i in range(16)]
        for version in (1, 2, 3):
            for name in names:
                self.assertEqual(self.site.run(turn(name), of(name)).version, version, name)
        first, second = map(self.site.sessions_of, self.site.servers)
        self.assertEqual(first & second, set())
        self.assertEqual(first | second, set(names))
        # Both are used.
        self.assertTrue(first)
        self.assertTrue(second)

    def test_forks_in_the_group_of_a_session_are_found(self):
        for i in range(16):
            source, named = f"group-{i}", f"group-{i}:named"
            self.site.run(turn(source), of(source))
            unnamed = self.site.sessions.Fork(sessions_pb2.ForkSessionRequest(session_id=source),
                                              metadata=of(source), timeout=LIMIT_SECONDS).session_id
            self.site.sessions.Fork(sessions_pb2.ForkSessionRequest(session_id=source, new_session_id=named),
                                    metadata=of(source), timeout=LIMIT_SECONDS)
            for fork in (unnamed, named):
                self.assertEqual(self.site.run(turn(fork), of(fork)).version, 2, fork)

    def test_a_call_without_a_key_is_refused_by_the_server_behind_it(self):
        channel = self.site.credentials.channel(self.site.address, key=None)
        self.addCleanup(channel.close)
        with self.assertRaises(grpc.RpcError) as refused:
            list(generation_pb2_grpc.GenerationStub(channel).Generate(turn(), timeout=LIMIT_SECONDS))
        self.assertEqual(refused.exception.code(), grpc.StatusCode.UNAUTHENTICATED)

    def test_nothing_is_served_in_plain(self):
        with grpc.insecure_channel(self.site.address) as channel:
            with self.assertRaises(grpc.RpcError) as refused:
                list(generation_pb2_grpc.GenerationStub(channel).Generate(turn(), timeout=LIMIT_SECONDS))
        self.assertEqual(refused.exception.code(), grpc.StatusCode.UNAVAILABLE)

    def test_a_server_of_another_authority_gets_nothing(self):
        stranger = Credentials()
        self.addCleanup(stranger.remove)
        impostor = EngramServer(*stranger.flags())
        self.addCleanup(impostor.stop)
        site = Site(self.addCleanup, second=impostor)
        for _ in range(6):
            site.run(turn())
        counts = re.findall(r"^engram_requests_total\{.*\} (\S+)$", stranger.page(f"https://{impostor.metrics}/metrics"),
                            re.M)
        self.assertTrue(counts)
        self.assertEqual(sum(map(float, counts)), 0)

    def test_calls_without_a_session_go_to_both(self):
        before = [self.site.turns_of(server) for server in self.site.servers]
        for _ in range(10):
            self.site.run(turn())
        for server, count in zip(self.site.servers, before):
            self.assertGreaterEqual(self.site.turns_of(server), count + 3)

    def test_a_server_that_drains_ends_its_streams_and_gets_no_more(self):
        self.site.run(turn("one"), of("one"))
        draining = next(server for server in self.site.servers if "one" in self.site.sessions_of(server))
        other = next(server for server in self.site.servers if server is not draining)
        stream = self.site.generation.Generate(turn("one", max_tokens=200000), metadata=of("one"),
                                               timeout=LIMIT_SECONDS)
        received = [next(stream) for _ in range(3)]
        draining.process.send_signal(signal.SIGTERM)
        # From then on it takes no turn.
        eventually(lambda: "\nengram_draining 1\n" in self.site.page_of(draining), "the drain has begun")
        count = self.site.turns_of(draining)
        # Until the proxy has seen it, a call may be refused; then none is.
        eventually(lambda: all(self.site.answers() for _ in range(4)), "calls go to the other server")
        before = self.site.turns_of(other)
        for _ in range(10):
            self.site.run(turn())
        self.assertEqual(self.site.turns_of(other), before + 10)
        self.assertEqual(self.site.turns_of(draining), count)
        # The stream is not cut.
        received += [next(stream) for _ in range(100)]
        self.assertEqual([message.token.index for message in received[1:]], list(range(102)))
        stream.cancel()
        self.assertEqual(draining.process.wait(timeout=LIMIT_SECONDS), 0)


if __name__ == "__main__":
    unittest.main()
