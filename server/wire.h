// Wire: protobuf messages to the server's plain values and back. All that can
// be told to be wrong from a message alone is refused here.
//
// Thread-safe: pure functions.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engram/v1/generation.pb.h"
#include "engram/v1/models.pb.h"
#include "engram/v1/sessions.pb.h"
#include "model/inspection.h"
#include "model/tokenizer.h"
#include "model/work_check.h"
#include "server/options.h"
#include "server/request.h"
#include "server/served_model.h"
#include "server/session_name.h"
#include "server/session_store.h"

namespace grpc {
class CallbackServerContext;
}  // namespace grpc

namespace engram {

// The one mapping of errors to gRPC.
grpc::Status ToGrpc(const absl::Status& status);
// The same; when to come again (tools/status/retry_after.h) goes into the
// trailing metadata of the call: `retry-after-ms` and, for gRPC's own retry
// policies, `grpc-retry-pushback-ms` in milliseconds, `retry-after` in whole
// seconds.
grpc::Status ToGrpc(const absl::Status& status,
                    grpc::CallbackServerContext* context);

// Of a caller of `tenant`. INVALID_ARGUMENT names field, value and limit;
// FAILED_PRECONDITION: text or stop strings to a model without tokenizer; what
// `may_go_on` says while a text is tokenised.
absl::StatusOr<Request> ToRequest(const v1::GenerateRequest& message,
                                  const TenantHandle& tenant,
                                  const ServedModel& model,
                                  const ServerOptions& limits,
                                  const WorkCheck::Ask& may_go_on);
absl::StatusOr<Request> ToRequest(const v1::ScoreRequest& message,
                                  const TenantHandle& tenant,
                                  const ServedModel& model,
                                  const ServerOptions& limits,
                                  const WorkCheck::Ask& may_go_on);
// What a turn starts with that never became a request; without version and
// position.
StartedEvent ToStarted(const v1::GenerateRequest& message);
absl::StatusOr<NewSession> ToNewSession(const v1::CreateSessionRequest& message,
                                        const TenantHandle& tenant,
                                        const ServedModel& model,
                                        const ServerOptions& limits);
absl::StatusOr<NewCheckpoint> ToNewCheckpoint(
    const v1::CheckpointSessionRequest& message, const ServerOptions& limits);
// Where an imported state goes, and as what.
struct ImportTarget {
  SessionName name;
  bool is_checkpoint = false;
  std::string model;  // empty: it was left open
  SessionLabels labels = {};
  std::optional<absl::Duration> time_to_live = std::nullopt;  // of a session
  bool may_replace = false;
};
absl::StatusOr<ImportTarget> ToImportTarget(const v1::ImportHeader& message,
                                            const TenantHandle& tenant,
                                            const ServerOptions& limits);

// A proxy in front of several servers may route by the metadata x-session-id.
// INVALID_ARGUMENT if a call has it and it is not its session's id: then the
// call came to a server that does not have the session.
absl::Status CheckSessionMetadata(const grpc::CallbackServerContext& context,
                                  absl::string_view session_id);

v1::Started ToMessage(const StartedEvent& event);
v1::Token ToMessage(TokenEvent event);
v1::Completed ToMessage(const CompletedEvent& event);
v1::Usage ToMessage(const Usage& usage);
v1::Timing ToMessage(const Timing& timing);
v1::Session ToMessage(const SessionInfo& session);
v1::CheckpointInfo ToCheckpointMessage(const SessionInfo& checkpoint);
v1::ModelInfo ToMessage(const ServedModel& model);

// The event in a GenerateResponse or a ConverseResponse, which are alike.
template <typename Response>
Response ToResponse(Event event) {
  Response response;
  if (auto* started = std::get_if<StartedEvent>(&event)) {
    *response.mutable_started() = ToMessage(*started);
  } else if (auto* token = std::get_if<TokenEvent>(&event)) {
    *response.mutable_token() = ToMessage(std::move(*token));
  } else {
    *response.mutable_completed() = ToMessage(std::get<CompletedEvent>(event));
  }
  return response;
}

}  // namespace engram
