#include "server/generation_call.h"

#include <string>
#include <utility>

#include "kernels/status.h"
#include "model/quoted.h"
#include "server/clock.h"
#include "server/wire.h"

namespace engram {
namespace {

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) {
    return absl::InfiniteFuture();
  }
  return absl::FromChrono(deadline);
}

RequestKind KindOf(const v1::GenerateRequest&) {
  return RequestKind::kGenerate;
}
RequestKind KindOf(const v1::ScoreRequest&) { return RequestKind::kScore; }
std::string RequestIdOf(const v1::GenerateRequest& message) {
  return message.request_id();
}
std::string RequestIdOf(const v1::ScoreRequest&) { return ""; }

template <typename Message>
absl::StatusOr<ServedModel*> FindModel(const CallSurroundings& around,
                                       const Caller& caller,
                                       const Message& message) {
  return around.models.Find(
      message.model(), SessionName(caller.tenant, message.session_id()),
      SessionName(caller.tenant, message.from_checkpoint()));
}

template <typename Message>
void ReportRefusalOf(const CallSurroundings& around,
                     const grpc::CallbackServerContext& context,
                     const Caller& caller, const Message& message,
                     const char* method, const absl::Status& status) {
  RequestSummary refusal = RefusalOf(context, caller, method, status);
  refusal.kind = RequestKindName(KindOf(message));
  refusal.session_id = Shortened(message.session_id());
  refusal.request_id = Shortened(RequestIdOf(message));
  const auto model = FindModel(around, caller, message);
  if (model.ok()) refusal.model = (*model)->name;
  around.models.Report(refusal);
}

template <typename Message>
absl::StatusOr<Request> ReadRequest(
    const CallSurroundings& around, const grpc::CallbackServerContext& context,
    const Caller& caller, const Message& message, const ServedModel& model,
    const WorkCheck::Ask& may_go_on,
    const std::function<absl::Status(const Request&)>& check) {
  ENGRAM_RETURN_IF_ERROR(CheckSessionMetadata(context, message.session_id()));
  ENGRAM_ASSIGN_OR_RETURN(
      Request request,
      ToRequest(message, caller.tenant, model, around.options, may_go_on));
  ENGRAM_RETURN_IF_ERROR(check(request));
  request.deadline = DeadlineOf(context);
  return request;
}

template <typename Message>
absl::StatusOr<std::unique_ptr<TurnFeed>> Submit(
    const CallSurroundings& around, const grpc::CallbackServerContext& context,
    const Caller& caller, const Message& message, const char* method,
    const WorkCheck::Ask& may_go_on,
    const std::function<absl::Status(const Request&)>& check) {
  const auto refuse = [&](const absl::Status& status) {
    ReportRefusalOf(around, context, caller, message, method, status);
    return status;
  };
  // Before there is any work, and whatever comes of it.
  const absl::Status counted = caller.tenant->CountRequest(RealClock()->Now());
  if (!counted.ok()) return refuse(counted);
  const absl::StatusOr<ServedModel*> model = FindModel(around, caller, message);
  if (!model.ok()) return refuse(model.status());
  absl::StatusOr<Request> request =
      ReadRequest(around, context, caller, message, **model, may_go_on, check);
  if (!request.ok()) return refuse(request.status());
  request->method = method;
  request->peer = context.peer();
  request->key = caller.key;
  return TurnFeed::Submit(*model, *std::move(request));
}

}  // namespace

absl::Status CancelReason(const grpc::CallbackServerContext& context) {
  // A client counts from when it sent the call and we from when it came: its
  // cancellation at the deadline arrives a little before ours.
  constexpr absl::Duration kEarly = absl::Milliseconds(100);
  if (DeadlineOf(context) - RealClock()->Now() <= kEarly) {
    return absl::DeadlineExceededError("the deadline passed");
  }
  return absl::CancelledError("the client cancelled or went away");
}

RequestSummary RefusalOf(const grpc::ServerContextBase& context,
                         const Caller& caller, std::string method,
                         const absl::Status& status) {
  RequestSummary summary;
  summary.handling = RequestHandling::kRefused;
  summary.method = std::move(method);
  summary.peer = context.peer();
  summary.tenant = caller.tenant;
  summary.key = caller.key;
  summary.status = status;
  return summary;
}

void ReportRefusal(const CallSurroundings& around,
                   const grpc::CallbackServerContext& context,
                   const Caller& caller, const char* method,
                   const v1::GenerateRequest& message,
                   const absl::Status& status) {
  ReportRefusalOf(around, context, caller, message, method, status);
}

absl::StatusOr<std::unique_ptr<TurnFeed>> SubmitMessage(
    const CallSurroundings& around, const grpc::CallbackServerContext& context,
    const Caller& caller, const v1::GenerateRequest& message,
    const char* method, const WorkCheck::Ask& may_go_on,
    const std::function<absl::Status(const Request&)>& check) {
  return Submit(around, context, caller, message, method, may_go_on, check);
}

absl::StatusOr<std::unique_ptr<TurnFeed>> SubmitMessage(
    const CallSurroundings& around, const grpc::CallbackServerContext& context,
    const Caller& caller, const v1::ScoreRequest& message,
    const WorkCheck::Ask& may_go_on,
    const std::function<absl::Status(const Request&)>& check) {
  return Submit(around, context, caller, message, "Score", may_go_on, check);
}

}  // namespace engram
