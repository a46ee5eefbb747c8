// engram.v1.Sessions.Import: a state from a file (server/state_file.h) that
// comes in parts.
#pragma once

#include <grpcpp/grpcpp.h>

#include "server/generation_call.h"

namespace engram {

// `reply` lives as long as the call.
grpc::ServerReadReactor<grpc::ByteBuffer>* StartImportCall(
    const CallSurroundings& around, grpc::CallbackServerContext* context,
    grpc::ByteBuffer* reply);

}  // namespace engram
