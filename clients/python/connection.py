"""Connections to a server as the environment says: TLS, a key, a tenant, by the variables of all other clients.

By TLS if ENGRAM_TLS is true or one of these is set, and ENGRAM_TLS is not false: ENGRAM_CA, ENGRAM_CERTIFICATE and
ENGRAM_KEY (files in PEM), ENGRAM_SERVER_NAME. With the key that the file ENGRAM_API_KEY_FILE holds, if that is set,
for the tenant ENGRAM_TENANT (operators only). A key is sent by TLS, or to this machine itself, and to nobody else.
"""
import ipaddress
import os
import pathlib
import sys

import grpc


def open_channel(address):
    """A channel, and the metadata that every call on it has to send."""
    tls = {name: os.environ.get(f"ENGRAM_{name}") or None for name in ("CA", "CERTIFICATE", "KEY", "SERVER_NAME")}
    switch = os.environ.get("ENGRAM_TLS", "")
    uses_tls = switch.lower() not in ("0", "f", "false", "n", "no") if switch else any(tls.values())
    metadata = []
    if key_file := os.environ.get("ENGRAM_API_KEY_FILE"):
        if not uses_tls and not is_loopback(address):
            sys.exit(f"a key is not sent in plain to {address}: speak TLS (ENGRAM_TLS=true, or ENGRAM_CA=FILE)")
        metadata.append(("authorization", f"Bearer {read_key(key_file)}"))
    if tenant := os.environ.get("ENGRAM_TENANT"):
        metadata.append(("engram-tenant", tenant))
    if uses_tls:
        parts = (tls[name] and pathlib.Path(tls[name]).read_bytes() for name in ("CA", "KEY", "CERTIFICATE"))
        named = [("grpc.ssl_target_name_override", tls["SERVER_NAME"])] if tls["SERVER_NAME"] else []
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(*parts), named), metadata
    if not key_file:
        return grpc.insecure_channel(address), metadata
    # These look whether the connection itself stays on this machine, and a proxy does not.
    kind = grpc.LocalConnectionType.UDS if address.startswith("unix:") else grpc.LocalConnectionType.LOCAL_TCP
    local = grpc.local_channel_credentials(kind)
    return grpc.secure_channel(address, local, [("grpc.enable_http_proxy", 0)]), metadata


def is_loopback(address):
    """By what it says: a name is not, wherever it leads today."""
    host = address.rsplit(":", 1)[0].strip("[]")
    try:
        return address.startswith("unix:") or host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_key(file):
    """The one line of the file; what is wrong with it is told without what it holds."""
    try:
        if os.stat(file).st_mode & 0o044:
            print(f"warning: the key file {file} can be read by others: chmod 600 it", file=sys.stderr)
        key = pathlib.Path(file).read_bytes().removesuffix(b"\n").removesuffix(b"\r")
    except OSError as error:
        sys.exit(f"the key file {file} cannot be read: {error.strerror}")
    if not key or any(not 33 <= character <= 126 for character in key):
        sys.exit(f"the key file {file} must hold one key in one line, and nothing else")
    return key.decode()


def explain(address, error):
    """What a call ended with, and what to do about it if it is the connection's or the key's."""
    advice = {
        grpc.StatusCode.UNAVAILABLE: "Does one of both speak TLS and the other not? See ENGRAM_TLS.",
        grpc.StatusCode.UNAUTHENTICATED: "ENGRAM_API_KEY_FILE names the file of your key; who runs the server makes one.",
        grpc.StatusCode.PERMISSION_DENIED: "Use a key that may do this (ENGRAM_API_KEY_FILE), or ask who runs the server.",
    }.get(error.code(), "")
    return f"{address}: {error.details()}\n{advice}".rstrip()
