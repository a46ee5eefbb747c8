// engram.v1.Models.

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "engram/v1/models.grpc.pb.h"
#include "kernels/status.h"
#include "server/service.h"
#include "server/wire.h"

namespace engram {
namespace {

class ModelsService final : public v1::Models::CallbackService {
 public:
  ModelsService(const ServedModels* models, TextThreads* texts)
      : models_(*models), texts_(*texts) {}

  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const v1::ListModelsRequest*,
                                 v1::ListModelsResponse* response) override {
    for (const auto& model : models_.all()) {
      *response->add_models() = ToMessage(*model);
    }
    return Finish(context->DefaultReactor(), "Models.List", "",
                  absl::OkStatus());
  }

  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context,
                                const v1::GetModelRequest* request,
                                v1::ModelInfo* response) override {
    const auto model = models_.Find(request->model(), "");
    if (model.ok()) *response = ToMessage(**model);
    return Finish(context->DefaultReactor(), "Models.Get", "", model.status());
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const absl::Status taken =
        texts_.Run(request->text().size(), [this, reactor, request, response] {
          Finish(reactor, "Tokenize", NameOf(request->model()),
                 TokenizeText(*request, response));
        });
    if (taken.ok()) return reactor;
    return Finish(reactor, "Tokenize", NameOf(request->model()), taken);
  }

  grpc::ServerUnaryReactor* Detokenize(
      grpc::CallbackServerContext* context,
      const v1::DetokenizeRequest* request,
      v1::DetokenizeResponse* response) override {
    return Finish(context->DefaultReactor(), "Detokenize",
                  NameOf(request->model()), DetokenizeIds(*request, response));
  }

 private:
  // Of the model that a call names; empty if it is not served.
  std::string NameOf(const std::string& model) const {
    const auto found = models_.Find(model, "");
    return found.ok() ? (*found)->name : "";
  }

  grpc::ServerUnaryReactor* Finish(grpc::ServerUnaryReactor* reactor,
                                   const char* method, const std::string& model,
                                   const absl::Status& status) const {
    models_.ReportAnswer(method, model, /*session_id=*/"", status);
    reactor->Finish(ToGrpc(status));
    return reactor;
  }

  absl::StatusOr<const Tokenizer*> FindTokenizer(
      const std::string& name) const {
    ENGRAM_ASSIGN_OR_RETURN(ServedModel * model, models_.Find(name, ""));
    if (model->tokenizer == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("model \"", model->name, "\" has no tokenizer"));
    }
    return model->tokenizer.get();
  }

  absl::Status TokenizeText(const v1::TokenizeRequest& request,
                            v1::TokenizeResponse* response) const {
    ENGRAM_ASSIGN_OR_RETURN(const Tokenizer* tokenizer,
                            FindTokenizer(request.model()));
    ENGRAM_ASSIGN_OR_RETURN(
        const std::vector<int32_t> ids,
        tokenizer->Encode(request.text(), request.parse_special_tokens()));
    for (size_t i = 0; i < ids.size(); ++i) {
      response->add_token_ids(ids[i]);
      response->add_pieces(tokenizer->Bytes(ids[i], /*first=*/i == 0));
    }
    return absl::OkStatus();
  }

  absl::Status DetokenizeIds(const v1::DetokenizeRequest& request,
                             v1::DetokenizeResponse* response) const {
    ENGRAM_ASSIGN_OR_RETURN(const Tokenizer* tokenizer,
                            FindTokenizer(request.model()));
    TextDecoder decoder(tokenizer);
    for (int i = 0; i < request.token_ids_size(); ++i) {
      const int32_t id = request.token_ids(i);
      if (!tokenizer->Knows(id)) {
        return absl::InvalidArgumentError(
            absl::StrCat("token_ids[", i, "] is ", id,
                         ", which the tokenizer does not know; its ids are "
                         "below ",
                         tokenizer->ids()));
      }
      TextDecoder::Piece piece = decoder.Append(id);
      response->mutable_text()->append(piece.text);
      response->mutable_bytes()->append(piece.bytes);
    }
    response->mutable_text()->append(decoder.Flush());
    return absl::OkStatus();
  }

  const ServedModels& models_;
  TextThreads& texts_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeModelsService(const ServedModels* models,
                                                 TextThreads* texts) {
  return std::make_unique<ModelsService>(models, texts);
}

}  // namespace engram
