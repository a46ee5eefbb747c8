// One call of Generation.Converse: turn after turn, each from its own TurnFeed.
#pragma once

#include <grpcpp/grpcpp.h>

#include "server/generation_call.h"

namespace engram {

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartConverseCall(
    const CallSurroundings& around, grpc::CallbackServerContext* context);

}  // namespace engram
