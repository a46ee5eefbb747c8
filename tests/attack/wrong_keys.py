"""One client without a good key, as fast as it can be in what time others leave it.

Usage: wrong_keys.py ADDRESS COUNT
"""
import os
import sys

import grpc

AT_ONCE = 64


def main():
    # It stands for other machines: what counts is the server's time, not its own.
    os.nice(19)
    channel = grpc.insecure_channel(sys.argv[1])
    models = channel.unary_unary("/engram.v1.Models/List")
    left, codes, running = int(sys.argv[2]), {}, []
    print("ready", flush=True)
    while left or running:
        while left and len(running) < AT_ONCE:
            # Each is another key, and each second call has none.
            metadata = [("authorization", f"Bearer wrong-{left}")] if left % 2 else []
            running.append(models.future(b"", timeout=120, metadata=metadata))
            left -= 1
        code = running.pop(0).code().name
        codes[code] = codes.get(code, 0) + 1
    print(*(f"{code}={count}" for code, count in sorted(codes.items())))


main()
