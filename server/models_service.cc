// engram.v1.Models.

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engram/v1/models.grpc.pb.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "server/service.h"
#include "server/unary_call.h"
#include "server/wire.h"

namespace engram {
namespace {

// What an answer of Tokenize takes for each token while it is made: its id, and
// its bytes as a field of their own.
constexpr int64_t kIdBytes = 8;
constexpr int64_t kPieceBytes = 56;

using Methods = v1::Models::WithRawCallbackMethod_List<
    v1::Models::WithRawCallbackMethod_Get<
        v1::Models::WithRawCallbackMethod_Tokenize<
            v1::Models::WithRawCallbackMethod_Detokenize<
                v1::Models::Service>>>>;

using ListCall = UnaryCall<v1::ListModelsRequest, v1::ListModelsResponse>;
using GetCall = UnaryCall<v1::GetModelRequest, v1::ModelInfo>;
using TokenizeCall = UnaryCall<v1::TokenizeRequest, v1::TokenizeResponse>;
using DetokenizeCall = UnaryCall<v1::DetokenizeRequest, v1::DetokenizeResponse>;

class ModelsService final : public Methods {
 public:
  explicit ModelsService(const CallSurroundings& around) : around_(around) {}

  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const grpc::ByteBuffer* message,
                                 grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::ListModelsRequest, v1::ListModelsResponse>(
        around_, context, message, reply, "Models.List",
        [this](const std::shared_ptr<ListCall>& call) {
          for (const auto& model : around_.models.all()) {
            *call->response()->add_models() = ToMessage(*model);
          }
          call->Finish(absl::OkStatus());
        });
  }

  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context,
                                const grpc::ByteBuffer* message,
                                grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::GetModelRequest, v1::ModelInfo>(
        around_, context, message, reply, "Models.Get",
        [this](const std::shared_ptr<GetCall>& call) {
          const auto model = around_.models.Find(call->request().model());
          if (model.ok()) *call->response() = ToMessage(**model);
          call->Finish(model.status());
        });
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* message,
                                     grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::TokenizeRequest, v1::TokenizeResponse>(
        around_, context, message, reply, "Tokenize",
        [this](const std::shared_ptr<TokenizeCall>& call) {
          call->Finish(TokenizeText(call.get()));
        });
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* message,
                                       grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::DetokenizeRequest, v1::DetokenizeResponse>(
        around_, context, message, reply, "Detokenize",
        [this](const std::shared_ptr<DetokenizeCall>& call) {
          call->Finish(DetokenizeIds(call.get()));
        });
  }

 private:
  absl::StatusOr<const Tokenizer*> FindTokenizer(const std::string& name,
                                                 UnaryCallBase* call) const {
    ENGRAM_ASSIGN_OR_RETURN(ServedModel * model, around_.models.Find(name));
    call->SetSubject({model->name, ""});
    if (model->tokenizer == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("model ", Quoted(model->name), " has no tokenizer"));
    }
    return model->tokenizer.get();
  }

  absl::Status TokenizeText(TokenizeCall* call) const {
    const v1::TokenizeRequest& request = call->request();
    ENGRAM_ASSIGN_OR_RETURN(const Tokenizer* tokenizer,
                            FindTokenizer(request.model(), call));
    const auto bytes = static_cast<int64_t>(request.text().size());
    if (bytes > around_.options.max_tokenize_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "text has ", bytes, " bytes, limit ",
          around_.options.max_tokenize_bytes, " (--max-tokenize-bytes)"));
    }
    // A token has at least one byte.
    ENGRAM_RETURN_IF_ERROR(call->Reserve(
        bytes * (kIdBytes + (request.pieces() ? kPieceBytes : 0))));
    WorkCheck check([call] { return call->MayGoOn(); });
    ENGRAM_ASSIGN_OR_RETURN(
        const std::vector<int32_t> ids,
        tokenizer->Encode(request.text(), request.parse_special_tokens(),
                          &check));
    v1::TokenizeResponse* response = call->response();
    response->mutable_token_ids()->Add(ids.begin(), ids.end());
    if (!request.pieces()) return absl::OkStatus();
    for (size_t i = 0; i < ids.size(); ++i) {
      response->add_pieces(tokenizer->Bytes(ids[i], /*first=*/i == 0));
    }
    return absl::OkStatus();
  }

  absl::Status DetokenizeIds(DetokenizeCall* call) const {
    const v1::DetokenizeRequest& request = call->request();
    ENGRAM_ASSIGN_OR_RETURN(const Tokenizer* tokenizer,
                            FindTokenizer(request.model(), call));
    if (request.token_ids_size() > around_.options.max_detokenize_tokens) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token_ids has ", request.token_ids_size(), " entries, limit ",
          around_.options.max_detokenize_tokens, " (--max-detokenize-tokens)"));
    }
    int64_t bytes = 0;
    for (int i = 0; i < request.token_ids_size(); ++i) {
      const int32_t id = request.token_ids(i);
      if (!tokenizer->Knows(id)) {
        return absl::InvalidArgumentError(
            absl::StrCat("token_ids[", i, "] is ", id,
                         ", which the tokenizer does not know; its ids are "
                         "below ",
                         tokenizer->ids()));
      }
      bytes += static_cast<int64_t>(tokenizer->Bytes(id, i == 0).size());
    }
    // A byte is one of `bytes` and, where it is broken, three of `text`.
    ENGRAM_RETURN_IF_ERROR(call->Reserve(4 * bytes));
    v1::DetokenizeResponse* response = call->response();
    TextDecoder decoder(tokenizer);
    for (const int32_t id : request.token_ids()) {
      TextDecoder::Piece piece = decoder.Append(id);
      response->mutable_text()->append(piece.text);
      response->mutable_bytes()->append(piece.bytes);
    }
    response->mutable_text()->append(decoder.Flush());
    return absl::OkStatus();
  }

  const CallSurroundings& around_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeModelsService(
    const CallSurroundings& around) {
  return std::make_unique<ModelsService>(around);
}

}  // namespace engram
