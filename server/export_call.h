// engram.v1.Sessions.Export: a state as a file (server/state_file.h), in parts.
#pragma once

#include <grpcpp/grpcpp.h>

#include "server/generation_call.h"

namespace engram {

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartExportCall(
    const CallSurroundings& around, grpc::CallbackServerContext* context,
    const grpc::ByteBuffer* message);

}  // namespace engram
