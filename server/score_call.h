// One call of Generation.Score: gathers the events of its TurnFeed in one
// answer.
#pragma once

#include <grpcpp/grpcpp.h>

#include "server/generation_call.h"

namespace engram {

// `message` and `reply` live as long as the call.
grpc::ServerUnaryReactor* StartScoreCall(const CallSurroundings& around,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* message,
                                         grpc::ByteBuffer* reply);

}  // namespace engram
