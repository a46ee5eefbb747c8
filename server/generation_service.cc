// engram.v1.Generation: which call object answers which method.

#include <grpcpp/grpcpp.h>

#include <memory>

#include "engram/v1/generation.grpc.pb.h"
#include "server/converse_call.h"
#include "server/generate_call.h"
#include "server/score_call.h"
#include "server/service.h"

namespace engram {
namespace {

using Methods = v1::Generation::WithCallbackMethod_Generate<
    v1::Generation::WithRawCallbackMethod_Converse<
        v1::Generation::WithCallbackMethod_Score<v1::Generation::Service>>>;

class GenerationService final : public Methods {
 public:
  GenerationService(const ServedModels* models, const ServerOptions* options,
                    TextThreads* texts, StopSignal* stop)
      : around_{*models, *options, *texts, *stop} {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context,
      const v1::GenerateRequest* request) override {
    return StartGenerateCall(around_, context, request);
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Converse(
      grpc::CallbackServerContext* context) override {
    return StartConverseCall(around_, context);
  }

  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override {
    return StartScoreCall(around_, context, request, response);
  }

 private:
  const CallSurroundings around_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeGenerationService(
    const ServedModels* models, const ServerOptions* options,
    TextThreads* texts, StopSignal* stop) {
  return std::make_unique<GenerationService>(models, options, texts, stop);
}

}  // namespace engram
