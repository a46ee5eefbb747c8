// What the calls share: how a message becomes a feed of events.
//
// A call object owns itself until gRPC is done with it, and whoever calls back
// into it later (the engine, for one) holds it only weakly.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engram/v1/generation.pb.h"
#include "model/work_check.h"
#include "server/access.h"
#include "server/caller.h"
#include "server/options.h"
#include "server/reply_budget.h"
#include "server/request.h"
#include "server/request_threads.h"
#include "server/served_model.h"
#include "server/stop_signal.h"
#include "server/turn_feed.h"

namespace engram {

// What all calls of a server share; it outlives them.
struct CallSurroundings {
  const ServedModels& models;
  const ServerOptions& options;
  RequestThreads& threads;
  ReplyBudget& replies;
  StopSignal& stop;
  const Access& access;
};

// Why gRPC cancelled a call: it does so too when the deadline passes.
absl::Status CancelReason(const grpc::CallbackServerContext& context);

// What log and metrics are told of a call that is refused, but for what is in
// its message. `method` is RequestSummary::method.
RequestSummary RefusalOf(const grpc::ServerContextBase& context,
                         const Caller& caller, std::string method,
                         const absl::Status& status);

// Tells log and metrics of a turn that came to nothing before a model took it.
// `method` is the call's: "Generate" or "Converse".
void ReportRefusal(const CallSurroundings& around,
                   const grpc::CallbackServerContext& context,
                   const Caller& caller, const char* method,
                   const v1::GenerateRequest& message,
                   const absl::Status& status);

// Counts the request for its tenant, whatever comes of it, and reports
// refusals. Ends early with what `may_go_on` says; `check` sees the request
// before a model does, and may refuse it. Errors: Tenant::CountRequest,
// ServedModels::Find, ToRequest, TurnFeed::Submit.
absl::StatusOr<std::unique_ptr<TurnFeed>> SubmitMessage(
    const CallSurroundings& around, const grpc::CallbackServerContext& context,
    const Caller& caller, const v1::GenerateRequest& message,
    const char* method, const WorkCheck::Ask& may_go_on,
    const std::function<absl::Status(const Request&)>& check);
absl::StatusOr<std::unique_ptr<TurnFeed>> SubmitMessage(
    const CallSurroundings& around, const grpc::CallbackServerContext& context,
    const Caller& caller, const v1::ScoreRequest& message,
    const WorkCheck::Ask& may_go_on,
    const std::function<absl::Status(const Request&)>& check);

}  // namespace engram
