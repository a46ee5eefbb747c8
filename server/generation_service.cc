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

using Methods = v1::Generation::WithRawCallbackMethod_Generate<
    v1::Generation::WithRawCallbackMethod_Converse<
        v1::Generation::WithRawCallbackMethod_Score<v1::Generation::Service>>>;

class GenerationService final : public Methods {
 public:
  explicit GenerationService(const CallSurroundings& around)
      : around_(around) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(
      grpc::CallbackServerContext* context,
      const grpc::ByteBuffer* message) override {
    return StartGenerateCall(around_, context, message);
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Converse(
      grpc::CallbackServerContext* context) override {
    return StartConverseCall(around_, context);
  }

  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* message,
                                  grpc::ByteBuffer* reply) override {
    return StartScoreCall(around_, context, message, reply);
  }

 private:
  const CallSurroundings& around_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeGenerationService(
    const CallSurroundings& around) {
  return std::make_unique<GenerationService>(around);
}

}  // namespace engram
