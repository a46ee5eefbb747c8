"""Lets a model continue a text on a session and prints it as it comes.

The stubs are made by the build (build/release/python), or by this one command
(Debian: protobuf-compiler-grpc, python3-grpcio, python3-protobuf):

  mkdir -p build/release/python && protoc -I proto --python_out=build/release/python --grpc_python_out=build/release/python --plugin=protoc-gen-grpc_python=/usr/bin/grpc_python_plugin proto/engram/v1/*.proto

  PYTHONPATH=build/release/python /usr/bin/python3 clients/python/client.py localhost:8001 mamba-english "In the beginning" [SESSION]

By TLS if ENGRAM_TLS is true or one of these is set, as for the other clients, and ENGRAM_TLS is not false: ENGRAM_CA,
ENGRAM_CERTIFICATE and ENGRAM_KEY (files in PEM), ENGRAM_SERVER_NAME.
"""
import os
import pathlib
import sys
import uuid

import grpc
from engram.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc

address, model, prompt = sys.argv[1:4]
session_id = sys.argv[4] if len(sys.argv) > 4 else f"python-{uuid.uuid4().hex}"
tls = {name: os.environ.get(f"ENGRAM_{name}") or None for name in ("CA", "CERTIFICATE", "KEY", "SERVER_NAME")}
switch = os.environ.get("ENGRAM_TLS", "")
if switch.lower() not in ("0", "f", "false", "n", "no") if switch else any(tls.values()):
    ca, key, certificate = (tls[name] and pathlib.Path(tls[name]).read_bytes() for name in ("CA", "KEY", "CERTIFICATE"))
    named = [("grpc.ssl_target_name_override", tls["SERVER_NAME"])] if tls["SERVER_NAME"] else []
    channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate), named)
else:
    channel = grpc.insecure_channel(address)
# A proxy before several servers sends all calls of a session to one of them by this.
metadata = [("x-session-id", session_id)]
try:
    version = sessions_pb2_grpc.SessionsStub(channel).Get(
        sessions_pb2.GetSessionRequest(session_id=session_id), metadata=metadata).version
except grpc.RpcError as error:
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        sys.exit(f"{address}: {error.details()}\nDoes one of both speak TLS and the other not? See ENGRAM_TLS.")
    if error.code() != grpc.StatusCode.NOT_FOUND:
        raise
    version = 0  # The session must be new.
request = generation_pb2.GenerateRequest(
    model=model, session_id=session_id, request_id=uuid.uuid4().hex, expected_version=version, text=prompt,
    sampling=generation_pb2.Sampling(temperature=0.7), stopping=generation_pb2.Stopping(max_tokens=100))
for response in generation_pb2_grpc.GenerationStub(channel).Generate(request, metadata=metadata):
    print(response.token.text or response.completed.text, end="", flush=True)
print(f"\nGo on with: {' '.join(sys.argv[:3])} ' and' {session_id}", file=sys.stderr)
