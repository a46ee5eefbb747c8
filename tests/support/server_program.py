"""engram-server as a program on free ports of loopback, for tests in Python."""
import re
import subprocess


def start_server(binaries, *flags, **arguments):
    """Starts it; its process, and the addresses of its gRPC port and its metrics port once it serves: both None if it
    ended before. `arguments` are those of Popen besides."""
    process = subprocess.Popen([binaries / "engram-server", "--grpc-address", "127.0.0.1:0", "--metrics-address",
                                "127.0.0.1:0", *flags], stdout=subprocess.PIPE, **arguments)
    listening = re.match(rb"listening grpc=(\S+) metrics=(\S+)", process.stdout.readline())
    addresses = (address.decode() for address in listening.groups()) if listening else (None, None)
    return process, *addresses
