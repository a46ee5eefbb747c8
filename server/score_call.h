// One call of Generation.Score: gathers the events of its TurnFeed in one answer.
#pragma once

#include <grpcpp/grpcpp.h>

#include "engram/v1/generation.pb.h"
#include "server/generation_call.h"

namespace engram {

// `message` and `response` live as long as the call.
grpc::ServerUnaryReactor* StartScoreCall(const CallSurroundings& around,
                                         grpc::CallbackServerContext* context,
                                         const v1::ScoreRequest* message,
                                         v1::ScoreResponse* response);

}  // namespace engram
