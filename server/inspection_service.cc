// engram.v1.Inspection. Calls are answered from an engine's thread.

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engram/v1/inspection.grpc.pb.h"
#include "kernels/status.h"
#include "server/request_id.h"
#include "server/service.h"
#include "server/state_warnings.h"
#include "server/turn_text.h"
#include "server/unary_call.h"
#include "server/wire.h"
#include "server/wire_inspection.h"

namespace engram {
namespace {

// What an answer takes while it is made: a state's numbers, and an answer's
// tokens.
constexpr int64_t kStateBytes = 300;
constexpr int64_t kAlternativeBytes = 80;
// Of a layer, the most there are: H3's two, attention's keys and window.
constexpr int64_t kStatesOfALayer = 2;

// Of an attribution: a float of a token and a state, as it is found and as it
// is sent; a token's id and piece.
constexpr int64_t kContributionBytes = 8;
constexpr int64_t kPieceBytes = 60;
// A token of an answer, as it is drawn and as it is sent.
constexpr int64_t kAnsweredBytes = 200;

using Methods = v1::Inspection::WithRawCallbackMethod_Describe<
    v1::Inspection::WithRawCallbackMethod_ReadOut<
        v1::Inspection::WithRawCallbackMethod_Attribute<
            v1::Inspection::WithRawCallbackMethod_Ablate<
                v1::Inspection::Service>>>>;

using DescribeCall = UnaryCall<v1::DescribeRequest, v1::DescribeResponse>;
using ReadOutCall = UnaryCall<v1::ReadOutRequest, v1::ReadOutResponse>;
using AttributeCall = UnaryCall<v1::AttributeRequest, v1::AttributeResponse>;
using AblateCall = UnaryCall<v1::AblateRequest, v1::AblateResponse>;

class InspectionService final : public Methods {
 public:
  explicit InspectionService(const CallSurroundings& around)
      : around_(around), models_(around.models), options_(around.options) {}

  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* message,
                                     grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::DescribeRequest, v1::DescribeResponse>(
        around_, context, message, reply, "Inspection.Describe",
        [this](const std::shared_ptr<DescribeCall>& call) {
          const absl::Status refused = Describe(call);
          if (!refused.ok()) call->Finish(refused);
        });
  }

  grpc::ServerUnaryReactor* ReadOut(grpc::CallbackServerContext* context,
                                    const grpc::ByteBuffer* message,
                                    grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::ReadOutRequest, v1::ReadOutResponse>(
        around_, context, message, reply, "Inspection.ReadOut",
        [this](const std::shared_ptr<ReadOutCall>& call) {
          const absl::Status refused = ReadOut(call);
          if (!refused.ok()) call->Finish(refused);
        });
  }

  grpc::ServerUnaryReactor* Attribute(grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer* message,
                                      grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::AttributeRequest, v1::AttributeResponse>(
        around_, context, message, reply, "Inspection.Attribute",
        [this](const std::shared_ptr<AttributeCall>& call) {
          const absl::Status refused = Attribute(call);
          if (!refused.ok()) call->Finish(refused);
        });
  }

  grpc::ServerUnaryReactor* Ablate(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* message,
                                   grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::AblateRequest, v1::AblateResponse>(
        around_, context, message, reply, "Inspection.Ablate",
        [this](const std::shared_ptr<AblateCall>& call) {
          const absl::Status refused = Ablate(call);
          if (!refused.ok()) call->Finish(refused);
        });
  }

 private:
  SessionStore& sessions() const { return *models_.sessions(); }

  // Answers the call, unless it is refused at once.
  absl::Status Describe(const std::shared_ptr<DescribeCall>& call) const {
    const std::string& session_id = call->request().session_id();
    call->SetSubject({"", session_id});
    ENGRAM_RETURN_IF_ERROR(CheckId("session_id", session_id));
    ENGRAM_RETURN_IF_ERROR(CheckSessionMetadata(call->context(), session_id));
    const SessionName name(call->caller().tenant, session_id);
    ENGRAM_ASSIGN_OR_RETURN(const int number, sessions().ModelOf(name));
    const ServedModel& model = *models_.all()[number];
    ENGRAM_RETURN_IF_ERROR(
        call->Reserve(model.info().layers * kStatesOfALayer * kStateBytes));
    SessionQuestion question;
    ENGRAM_ASSIGN_OR_RETURN(question.session, sessions().Find(name));
    question.asked.describe = true;
    Ask(call, model, name, std::move(question), Tell);
    return absl::OkStatus();
  }

  absl::Status ReadOut(const std::shared_ptr<ReadOutCall>& call) const {
    SessionQuestion question;
    ENGRAM_ASSIGN_OR_RETURN(const ServedModel* model, Read(call, &question));
    const int64_t states = 1 + model->info().layers * kStatesOfALayer;
    ENGRAM_RETURN_IF_ERROR(call->Reserve(
        call->request().query_ids_size() * states *
        (kStateBytes + question.asked.alternatives * kAlternativeBytes)));
    Ask(call, *model, NameOf(call), std::move(question), Tell);
    return absl::OkStatus();
  }

  absl::Status Attribute(const std::shared_ptr<AttributeCall>& call) const {
    SessionQuestion question;
    ENGRAM_ASSIGN_OR_RETURN(const ServedModel* model, Read(call, &question));
    const int64_t states = model->info().layers * kStatesOfALayer;
    const auto tokens =
        static_cast<int64_t>(question.asked.tokens.size()) + 1;  // pending
    ENGRAM_RETURN_IF_ERROR(
        call->Reserve(states * kStateBytes +
                      tokens * (states * kContributionBytes + kPieceBytes)));
    Ask(call, *model, NameOf(call), std::move(question), Tell);
    return absl::OkStatus();
  }

  absl::Status Ablate(const std::shared_ptr<AblateCall>& call) const {
    SessionQuestion question;
    ENGRAM_ASSIGN_OR_RETURN(const ServedModel* model, Read(call, &question));
    const AblationQuestion& ablation = *question.asked.ablation;
    const auto tokens =
        static_cast<int64_t>(question.asked.tokens.size()) + 1;  // pending
    ENGRAM_RETURN_IF_ERROR(call->Reserve(
        tokens * kPieceBytes +
        2 * ablation.max_tokens *
            (kAnsweredBytes + ablation.alternatives * kAlternativeBytes)));
    call->response()->set_seed(static_cast<int64_t>(ablation.sampling.seed));
    Ask(call, *model, NameOf(call), std::move(question), Tell);
    return absl::OkStatus();
  }

  template <typename Call>
  static SessionName NameOf(const std::shared_ptr<Call>& call) {
    return {call->caller().tenant, call->request().session_id()};
  }

  // What is asked of a session, of a text, or of both, and of which model.
  template <typename Call>
  absl::StatusOr<const ServedModel*> Read(const std::shared_ptr<Call>& call,
                                          SessionQuestion* question) const {
    const auto& request = call->request();
    const std::string& session_id = request.session_id();
    call->SetSubject({"", session_id});
    const SessionName name = NameOf(call);
    const SessionName no_checkpoint(call->caller().tenant, "");
    if (!session_id.empty()) {
      ENGRAM_RETURN_IF_ERROR(CheckId("session_id", session_id));
      ENGRAM_RETURN_IF_ERROR(CheckSessionMetadata(call->context(), session_id));
    }
    ENGRAM_ASSIGN_OR_RETURN(const ServedModel* model,
                            models_.Find(request.model(), name, no_checkpoint));
    if (!session_id.empty()) {
      ENGRAM_ASSIGN_OR_RETURN(question->session,
                              sessions().FindOfModel(name, model->number));
    }
    ENGRAM_ASSIGN_OR_RETURN(
        question->asked,
        ToQuestion(request, *model, options_,
                   [call = call.get()] { return call->MayGoOn(); }));
    return model;
  }

  // Has an engine answer it: one whose device has the state, if any has.
  template <typename Call>
  void Ask(const std::shared_ptr<Call>& call, const ServedModel& model,
           const SessionName& name, SessionQuestion question,
           void (*tell)(const SessionLook& look, const ServedModel& model,
                        Call* call)) const {
    question.tenant = call->caller().tenant;
    question.may_go_on = [call] { return call->MayGoOn(); };
    question.done = [call, &model, tell](absl::StatusOr<SessionLook> look) {
      if (look.ok()) tell(*look, model, call.get());
      call->Finish(look.status());
    };
    const int device = sessions().DeviceOf(name).value_or(0);
    model.devices[device].engine->Inspect(std::move(question));
  }

  static void Tell(const SessionLook& look, const ServedModel& model,
                   DescribeCall* call) {
    v1::DescribeResponse& response = *call->response();
    response.set_model(model.name);
    response.set_version(look.turns.version);
    response.set_position(look.turns.position);
    if (look.answer.fading_token >= 0) {
      response.set_fading_token_id(look.answer.fading_token);
      response.set_fading_token_text(
          TextOf(model.tokenizer.get(), look.answer.fading_token));
    }
    for (const StateSummary& summary : look.answer.states) {
      *response.add_states() = ToMessage(summary);
    }
    const int64_t trained_tokens = model.info().trained_tokens;
    response.set_trained_tokens(trained_tokens);
    for (std::string& warning : StateWarnings(
             look.answer.states, look.turns.position, trained_tokens)) {
      response.add_warnings(std::move(warning));
    }
  }

  static void Tell(const SessionLook& look, const ServedModel& model,
                   ReadOutCall* call) {
    v1::ReadOutResponse& response = *call->response();
    response.set_model(model.name);
    response.set_version(look.turns.version);
    response.set_position(look.turns.position);
    for (const QueryAnswer& answer : look.answer.queries) {
      *response.add_queries() = ToMessage(answer, model.tokenizer.get());
    }
  }

  static void Tell(const SessionLook& look, const ServedModel& model,
                   AttributeCall* call) {
    v1::AttributeResponse& response = *call->response();
    response = ToMessage(*look.answer.attribution, model.tokenizer.get());
    response.set_model(model.name);
    response.set_version(look.turns.version);
    response.set_position(look.turns.position);
  }

  static void Tell(const SessionLook& look, const ServedModel& model,
                   AblateCall* call) {
    const v1::AblateRequest& request = call->request();
    v1::AblateResponse& response = *call->response();
    const int64_t seed = response.seed();
    response = ToMessage(
        *look.answer.ablation,
        {request.stopping().stop().begin(), request.stopping().stop().end()},
        request.logprobs() > 0, model.tokenizer.get());
    response.set_model(model.name);
    response.set_version(look.turns.version);
    response.set_position(look.turns.position);
    response.set_seed(seed);
  }

  const CallSurroundings& around_;
  const ServedModels& models_;
  const ServerOptions& options_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeInspectionService(
    const CallSurroundings& around) {
  return std::make_unique<InspectionService>(around);
}

}  // namespace engram
