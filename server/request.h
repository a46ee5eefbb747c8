// Request and Event: what the server's parts hand each other, as plain values
// without protobuf. `service` translates the wire into Requests and Events into
// the wire.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "model/sampling.h"
#include "server/request_identity.h"
#include "server/session_name.h"
#include "server/tenant.h"

namespace engram {

struct Stopping {
  int64_t max_tokens = 0;  // 0: only feed the prompt
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  // The model's, which end a turn too; none if they are ignored.
  std::vector<int32_t> end_of_text_ids;
};

enum class RequestKind {
  kGenerate,  // one turn
  kScore,     // log-probabilities of the prompt; changes no session
};

// One RPC after validation of what can be told from the message alone.
struct Request {
  RequestKind kind = RequestKind::kGenerate;
  std::string method;      // of the call: "Generate", "Converse" or "Score"
  std::string peer;        // who asks, as gRPC writes it: "ipv4:127.0.0.1:4711"
  TenantHandle tenant;     // whose request it is; nullptr: of none by name
  std::string key;         // the name of the key that was shown; empty: none
  std::string session_id;  // empty: without memory
  std::string request_id;  // never empty once admitted
  std::string from_checkpoint;  // what it starts from; empty: from nothing
  std::optional<int64_t> expected_version;
  std::vector<int32_t> prompt;
  SamplingParameters sampling;
  Stopping stopping;
  bool keep_partial = false;
  std::vector<int32_t> received;  // tokens of this turn the client already has
  int logprobs = 0;               // alternatives per token
  int priority = 0;
  absl::Time deadline = absl::InfiniteFuture();
  // Of a turn on a session, set by admission: equal request_ids must come with
  // equal identities.
  RequestIdentity identity = {};

  // Its session; one without an id if it has none.
  SessionName session() const { return {tenant, session_id}; }
  // The same of its checkpoint.
  SessionName checkpoint() const { return {tenant, from_checkpoint}; }
};

enum class FinishReason { kStop, kLength, kCancelled };

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t generated_tokens = 0;
};

struct Timing {
  absl::Duration queue;
  absl::Duration prefill;
  absl::Duration decode;
};

// What log and metrics are told of a turn, and its client in Completed.
struct TurnFigures {
  Usage usage;
  Timing timing;
};

struct StartedEvent {
  std::string session_id;
  std::string request_id;
  int64_t version = 0;   // before the turn
  int64_t position = 0;  // before the turn
  int64_t cached_tokens = 0;
  int64_t seed = 0;
};

struct Alternative {
  int32_t id = 0;
  std::string text;
  float logprob = 0;
};

struct TokenEvent {
  int32_t index = 0;
  int32_t id = 0;
  std::string text;
  std::string bytes;
  std::optional<float> logprob;
  std::vector<Alternative> top;
};

struct CompletedEvent {
  FinishReason finish_reason = FinishReason::kLength;
  std::string text;  // held-back tail
  int64_t version = 0;
  int64_t position = 0;
  Usage usage;
  Timing timing;
};

using Event = std::variant<StartedEvent, TokenEvent, CompletedEvent>;

// What became of a request: it was run by the engine, turned down before,
// answered from the record of a turn that had committed, or needed no engine.
enum class RequestHandling { kRun, kRefused, kReplayed, kAnswered };

// What one ended request is remembered by in log and metrics. Its figures are
// those that its client was told, or would have been: a replay's are those of
// the turn that it tells again.
struct RequestSummary {
  RequestHandling handling = RequestHandling::kRun;
  std::string model;
  std::string kind;  // "generate", "score"
  // Of the call, without "engram.v1.": "Generate", "Converse", "Score",
  // "Tokenize", "Detokenize", "Sessions.Create", "Models.List" and so on. One
  // of few: it is a label of the metrics.
  std::string method;
  std::string peer;     // as in Request
  TenantHandle tenant;  // as in Request; nullptr, too, of who has no known key
  std::string key;
  std::string session_id;
  std::string request_id;
  absl::Status status;
  // "stop", "length", "cancelled" if a fragment was kept, or empty if nothing
  // was (though CancelTurn's client is told CANCELLED then too).
  std::string finish_reason;
  Usage usage;
  Timing timing;
  absl::Duration total;
};

// "generate", "score".
inline const char* RequestKindName(RequestKind kind) {
  return kind == RequestKind::kScore ? "score" : "generate";
}

// "stop", "length", "cancelled".
inline const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "";
}

// Who asked for what: all that a summary takes from the request itself.
inline RequestSummary SummaryOf(const std::string& model,
                                const Request& request) {
  RequestSummary summary;
  summary.model = model;
  summary.kind = RequestKindName(request.kind);
  summary.method = request.method;
  summary.peer = request.peer;
  summary.tenant = request.tenant;
  summary.key = request.key;
  summary.session_id = request.session_id;
  summary.request_id = request.request_id;
  return summary;
}

}  // namespace engram
