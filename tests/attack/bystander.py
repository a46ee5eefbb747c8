"""A client that does nobody any harm: one short turn of its session and one health check
after the other, until it is killed. Writes "ready" after the first, and for each line on its
input what it saw since the last one, as JSON.

Usage: bystander.py ADDRESS MODEL [METADATA=VALUE]
"""
import json
import sys
import threading
import time

import grpc
from engram.v1 import generation_pb2, generation_pb2_grpc

LIMIT = 120


class Calls:
    """How long the calls of a kind took; the one that runs counts as long as it has run."""

    def __init__(self, make):
        self.make, self.took, self.began = make, [], None
        self.codes = {}
        self.lock = threading.Lock()

    def run(self, first, others):
        while True:
            with self.lock:
                self.began = time.monotonic()
            code = "OK"
            try:
                self.make()
            except grpc.RpcError as error:
                code = error.code().name
            with self.lock:
                self.took.append(time.monotonic() - self.began)
                self.began = None
                self.codes[code] = self.codes.get(code, 0) + 1
            first.set()
            others.wait(0.02)

    def tell(self):
        with self.lock:
            took, self.took = self.took, []
            codes, self.codes = self.codes, {}
            if self.began is not None:
                took.append(time.monotonic() - self.began)
        took.sort()
        return {"count": len(took), "median": took[len(took) // 2] if took else 0.0,
                "worst": took[-1] if took else 0.0}, codes


def main():
    channel = grpc.insecure_channel(sys.argv[1])
    metadata = [tuple(word.split("=", 1)) for word in sys.argv[3:]]
    generation = generation_pb2_grpc.GenerationStub(channel)
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    turn = generation_pb2.GenerateRequest(
        model=sys.argv[2], session_id="bystander", token_ids=generation_pb2.TokenIds(ids=[1, 2, 3]),
        stopping=generation_pb2.Stopping(max_tokens=8, ignore_eos=True))
    kinds = {"generate": Calls(lambda: list(generation.Generate(turn, timeout=LIMIT, metadata=metadata))),
             "health": Calls(lambda: check(b"", timeout=LIMIT))}
    never = threading.Event()
    for calls in kinds.values():
        first = threading.Event()
        threading.Thread(target=calls.run, args=(first, never), daemon=True).start()
        first.wait()
    print("ready", flush=True)
    for _ in sys.stdin:
        seen, codes = {}, {}
        for kind, calls in kinds.items():
            seen[kind], of_kind = calls.tell()
            for code, count in of_kind.items():
                codes[code] = codes.get(code, 0) + count
        seen["codes"] = codes
        seen["failures"] = sum(count for code, count in codes.items() if code != "OK")
        print(json.dumps(seen), flush=True)


main()
