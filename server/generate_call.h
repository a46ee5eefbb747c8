// One call of Generation.Generate: moves events from its TurnFeed to the wire as
// fast as the client takes them.
#pragma once

#include <grpcpp/grpcpp.h>

#include "engram/v1/generation.pb.h"
#include "server/generation_call.h"

namespace engram {

// `message` lives as long as the call.
grpc::ServerWriteReactor<v1::GenerateResponse>* StartGenerateCall(
    const CallSurroundings& around, grpc::CallbackServerContext* context,
    const v1::GenerateRequest* message);

}  // namespace engram
