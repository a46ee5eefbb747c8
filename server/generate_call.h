// One call of Generation.Generate: moves events from its TurnFeed to the wire
// as fast as the client takes them.
#pragma once

#include <grpcpp/grpcpp.h>

#include "server/generation_call.h"

namespace engram {

// `message` lives as long as the call.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerateCall(
    const CallSurroundings& around, grpc::CallbackServerContext* context,
    const grpc::ByteBuffer* message);

}  // namespace engram
