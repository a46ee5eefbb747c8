// The client library: every call of engram.v1 as a function that returns an
// absl::Status. What it adds to the generated stubs is that turns survive
// broken streams by themselves (see resumable_turn.h), and that reads are
// repeated when the server cannot be reached.
//
// No gRPC header is included here: they make compilation slow.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "clients/cpp/caller_options.h"
#include "clients/cpp/cancellation.h"
#include "clients/cpp/tls_options.h"
#include "engram/v1/generation.pb.h"
#include "engram/v1/inspection.pb.h"
#include "engram/v1/models.pb.h"
#include "engram/v1/sessions.pb.h"

namespace engram::client {

// The environment variable ENGRAM_SERVER, else localhost:8001.
std::string DefaultServer();

// How far a call came before it failed.
enum class CallEnd {  // In the order of call_end.cc.
  kUnknown,           // An error of another kind, such as a passed deadline.
  kNotReached,        // No connection to the server was made.
  kBroken,            // The connection broke before the server had answered.
  kAnswered,          // The server itself said so.
};

// Of a status that a Client returned.
CallEnd EndOf(const absl::Status& status);

struct ClientOptions {
  // "HOST", "HOST:PORT" and what else server_address.h takes.
  std::string server = DefaultServer();
  TlsOptions tls = DefaultTls();
  // A key is read once, and is sent by TLS only or to this machine itself.
  CallerOptions caller = DefaultCaller();
  // Repeats in a row that may bring nothing new before a call fails. Each waits
  // as long as the server asks for, if it does, and then some.
  int retries = 6;
  // Told of each failure that will be repeated, and of the wait before.
  std::function<void(const absl::Status&, absl::Duration)> on_repeat = {};
  // Replaces the wait before a repeat; tests need not wait at all.
  std::function<void(absl::Duration)> wait_for_test = {};
};

struct CallOptions {
  // For the whole call, its repeats included.
  absl::Duration deadline = absl::InfiniteDuration();
  // Ends the call with CANCELLED. May be null; outlives the call.
  Cancellation* cancellation = nullptr;
};

// Thread-safe. Errors are the server's own, UNAVAILABLE if it cannot be
// reached, CANCELLED and DEADLINE_EXCEEDED, and INVALID_ARGUMENT without asking
// the server if its address is none, a file of TLS or of a key cannot be used,
// a key would be sent in plain, or a string of the request is not UTF-8 (the
// message names field and byte).
// FAILED_PRECONDITION, at once, if TLS keeps client and server apart: one of
// them does not speak it, or does not take the other's certificate.
//
// Calls that name a session tell it as the metadata "x-session-id" as well, by
// which a proxy can send all calls of one session to one server; those that
// name a checkpoint alone tell that, which is found if it has its session's
// group.
class Client {
 public:
  explicit Client(ClientOptions options);
  ~Client();

  // Runs a turn, and calls `on_response` in this thread with each message as it
  // comes: one Started, each token exactly once, one Completed.
  absl::Status Generate(
      const v1::GenerateRequest& request,
      absl::FunctionRef<void(const v1::GenerateResponse&)> on_response,
      const CallOptions& options = {});

  absl::StatusOr<v1::ScoreResponse> Score(const v1::ScoreRequest& request,
                                          const CallOptions& options = {});

  // An id that is left out is made up here and not by the server, so that it
  // can be told as metadata.
  absl::StatusOr<v1::Session> CreateSession(
      const v1::CreateSessionRequest& request, const CallOptions& options = {});
  absl::StatusOr<v1::Session> GetSession(const v1::GetSessionRequest& request,
                                         const CallOptions& options = {});
  absl::StatusOr<v1::ListSessionsResponse> ListSessions(
      const v1::ListSessionsRequest& request, const CallOptions& options = {});
  absl::StatusOr<v1::DeleteSessionResponse> DeleteSession(
      const v1::DeleteSessionRequest& request, const CallOptions& options = {});
  absl::StatusOr<v1::Session> ForkSession(const v1::ForkSessionRequest& request,
                                          const CallOptions& options = {});

  absl::StatusOr<v1::CheckpointInfo> CreateCheckpoint(
      const v1::CheckpointSessionRequest& request,
      const CallOptions& options = {});
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(
      const v1::ListCheckpointsRequest& request,
      const CallOptions& options = {});
  absl::StatusOr<v1::DeleteCheckpointResponse> DeleteCheckpoint(
      const v1::DeleteCheckpointRequest& request,
      const CallOptions& options = {});

  // A state as a safetensors file (Sessions.Export): calls `on_data` in this
  // thread with each part as it comes, and ends with what it returns if that is
  // not OK. Not repeated once a part has come.
  absl::Status Export(
      const v1::ExportRequest& request,
      absl::FunctionRef<absl::Status(absl::string_view)> on_data,
      const CallOptions& options = {});

  // The other way round (Sessions.Import): asks `next` in this thread for each
  // part of the file, an empty one at the end, and ends with its error if it
  // has one: the server then keeps nothing. Not repeated once a part was asked
  // for.
  absl::StatusOr<v1::ImportResponse> Import(
      const v1::ImportHeader& header,
      absl::FunctionRef<absl::StatusOr<std::string>()> next,
      const CallOptions& options = {});

  absl::StatusOr<v1::DescribeResponse> Describe(
      const v1::DescribeRequest& request, const CallOptions& options = {});
  absl::StatusOr<v1::ReadOutResponse> ReadOut(const v1::ReadOutRequest& request,
                                              const CallOptions& options = {});
  absl::StatusOr<v1::AttributeResponse> Attribute(
      const v1::AttributeRequest& request, const CallOptions& options = {});
  absl::StatusOr<v1::AblateResponse> Ablate(const v1::AblateRequest& request,
                                            const CallOptions& options = {});

  absl::StatusOr<v1::ListModelsResponse> ListModels(
      const CallOptions& options = {});
  absl::StatusOr<v1::ModelInfo> GetModel(const v1::GetModelRequest& request,
                                         const CallOptions& options = {});
  absl::StatusOr<v1::TokenizeResponse> Tokenize(
      const v1::TokenizeRequest& request, const CallOptions& options = {});
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(
      const v1::DetokenizeRequest& request, const CallOptions& options = {});

  // The version to expect of a session before its next turn; 0 if there is no
  // such session yet.
  absl::StatusOr<int64_t> SessionVersion(const std::string& session_id,
                                         const CallOptions& options = {});

 private:
  struct Stubs;
  class Call;

  // Whether `request` can be sent at all.
  absl::Status Check(const google::protobuf::Message& request) const;

  // Makes a call without a stream about a session ("" for none), and repeats it
  // up to `retries` times when the server cannot be reached.
  template <typename Response, typename Request, typename Attempt>
  absl::StatusOr<Response> Unary(const Request& request,
                                 const std::string& session_id,
                                 const CallOptions& options, int retries,
                                 Attempt attempt);

  const ClientOptions options_;
  const absl::StatusOr<std::string> address_;
  const std::unique_ptr<Stubs> stubs_;
};

}  // namespace engram::client
