"""Lets a model continue a text on a session and prints it as it comes.

The stubs are made by the build (build/release/python), or by this one command
(Debian: protobuf-compiler-grpc, python3-grpcio, python3-protobuf):

  mkdir -p build/release/python && protoc -I proto --python_out=build/release/python --grpc_python_out=build/release/python --plugin=protoc-gen-grpc_python=/usr/bin/grpc_python_plugin proto/engram/v1/*.proto

  PYTHONPATH=build/release/python /usr/bin/python3 clients/python/client.py localhost:8001 mamba-english "In the beginning" [SESSION]

TLS and keys: by variables, see connection.py.
"""
import sys
import uuid

import grpc
from engram.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc

import connection

address, model, prompt = sys.argv[1:4]
session_id = sys.argv[4] if len(sys.argv) > 4 else f"python-{uuid.uuid4().hex}"
channel, metadata = connection.open_channel(address)
# A proxy before several servers sends all calls of a session to one of them by this.
metadata.append(("x-session-id", session_id))
try:
    try:
        version = sessions_pb2_grpc.SessionsStub(channel).Get(
            sessions_pb2.GetSessionRequest(session_id=session_id), metadata=metadata).version
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        version = 0  # The session must be new.
    request = generation_pb2.GenerateRequest(
        model=model, session_id=session_id, request_id=uuid.uuid4().hex, expected_version=version, text=prompt,
        sampling=generation_pb2.Sampling(temperature=0.7), stopping=generation_pb2.Stopping(max_tokens=100))
    for response in generation_pb2_grpc.GenerationStub(channel).Generate(request, metadata=metadata):
        print(response.token.text or response.completed.text, end="", flush=True)
except grpc.RpcError as error:
    sys.exit(connection.explain(address, error))
print(f"\nGo on with: {' '.join(sys.argv[:3])} ' and' {session_id}", file=sys.stderr)
