// What must be refused in a simulation, and with which code.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/simulation/simulation.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

// Of a session's fields alone, as the store counts them.
constexpr size_t kOwnBytes = 1024;

}  // namespace

// --- Turns.

absl::StatusCode Simulation::ExpectedRefusal(const Request& request) {
  using Code = absl::StatusCode;
  const auto& limits = engine_.options.admission;
  if (static_cast<int64_t>(request.prompt.size()) > limits.max_prompt_tokens) {
    return Code::kInvalidArgument;
  }
  const bool full = FullQueues() == engine_.options.devices;
  const bool looks_for_checkpoint = !request.from_checkpoint.empty();
  const SessionPointer checkpoint = CheckpointOf(request);
  if (request.session_id.empty()) {
    if (looks_for_checkpoint && checkpoint == nullptr) return Code::kNotFound;
    if (request.prompt.empty() &&
        (checkpoint == nullptr || !checkpoint->pending)) {
      return Code::kInvalidArgument;
    }
    if (CouldOutgrow(checkpoint.get(), request)) return Code::kInvalidArgument;
    return full ? Code::kUnavailable : Code::kOk;
  }

  // A session may have left for good since; its id then is of the departed.
  SessionPointer session = Known(NameIn(request));
  if (session != nullptr && !session->running &&
      !engine_.sessions.Find(request.session()).ok()) {
    Depart(NameIn(request));
    session = nullptr;
  }
  if (departed_.contains(NameIn(request))) return Code::kNotFound;
  if (request.kind == RequestKind::kScore) {
    if (session == nullptr) return Code::kNotFound;
    if (session->made_by_turn) {
      return Code::kNotFound;  // its first turn runs
    }
    return full ? Code::kUnavailable : Code::kOk;
  }
  if (session == nullptr && looks_for_checkpoint && checkpoint == nullptr) {
    return Code::kNotFound;
  }
  const Code refusal = ExpectedRefusalOfTurn(request, session.get());
  if (refusal != Code::kOk) return refusal;
  if (session != nullptr && !session->committed.empty() &&
      session->committed.back() == request.request_id) {
    return Code::kOk;  // told again
  }
  const Session* const start =
      session == nullptr ? checkpoint.get() : session.get();
  if (CouldOutgrow(start, request)) return Code::kInvalidArgument;
  if (full) return Code::kUnavailable;
  if (start == nullptr || start->position() == 0) return Code::kOk;
  size_t reserved =
      StateBytes(start->position()) + engine_.sessions.Counts().parked_bytes;
  for (const auto& [id, other] : sessions_) {
    if (other->running) reserved += StateBytes(other->position());
  }
  for (const auto& [id, other] : checkpoints_) {
    reserved += StateBytes(other->position());
  }
  return reserved + BytesKeptFrom(request.tenant) >
                 engine_.options.sessions.memory_bytes
             ? Code::kResourceExhausted
             : Code::kOk;
}

// For what it asks of its session, nullptr: of a new one.
absl::StatusCode Simulation::ExpectedRefusalOfTurn(const Request& request,
                                                   const Session* session) {
  using Code = absl::StatusCode;
  const int64_t version = session == nullptr ? 0 : session->version();
  if (session != nullptr) {
    const auto& ids = session->committed;
    const auto found = std::find(ids.begin(), ids.end(), request.request_id);
    const int64_t remembered = engine_.options.sessions.remembered_turns;
    if (found != ids.end() && ids.end() - found <= remembered) {
      return found + 1 == ids.end() ? Code::kOk : Code::kAlreadyExists;
    }
    // It may be one of those that were forgotten.
    if (static_cast<int64_t>(ids.size()) > remembered &&
        !request.expected_version.has_value()) {
      return Code::kFailedPrecondition;
    }
    if (session->running) return Code::kAborted;
  }
  if (request.expected_version.value_or(version) != version) {
    return Code::kFailedPrecondition;
  }
  if (session != nullptr && !request.from_checkpoint.empty()) {
    return Code::kFailedPrecondition;
  }
  const SessionPointer checkpoint = CheckpointOf(request);
  const Session* const start = session == nullptr ? checkpoint.get() : session;
  if (request.prompt.empty() && (start == nullptr || !start->pending)) {
    return Code::kInvalidArgument;
  }
  return Code::kOk;
}

void Simulation::CheckRefusal(const Call& call, absl::StatusCode expected,
                              bool may_be_full, const absl::Status& status) {
  ++counts_.refusals[CodeName(status)];
  // All sessions may be busy, so that none can leave for a new one.
  const bool no_place = call.session == nullptr &&
                        status.code() == absl::StatusCode::kResourceExhausted;
  const bool could_run = expected == absl::StatusCode::kOk ||
                         expected == absl::StatusCode::kResourceExhausted;
  // What is the tenant's own may be full, or all that it may have taken.
  const bool of_tenant =
      call.request.tenant != nullptr &&
      absl::StrContains(
          status.message(),
          absl::StrCat("tenant \"", call.request.tenant->name(), "\""));
  const bool full =
      (may_be_full || of_tenant) && could_run && absl::IsUnavailable(status);
  const bool over_quota = of_tenant && absl::IsResourceExhausted(status);
  counts_.over_quota += over_quota;
  EXPECT_TRUE(!of_tenant || RetryAfter(status).has_value());
  // It may also have to wait too long, and is then told when to return.
  const bool too_long = RetryAfter(status).has_value() && !full &&
                        !over_quota &&
                        expected != absl::StatusCode::kUnavailable;
  if (too_long) {
    ++counts_.overdue;
    EXPECT_TRUE(absl::IsUnavailable(status));
    EXPECT_TRUE(could_run);
    EXPECT_NE(engine_.options.admission.max_queue_time,
              absl::InfiniteDuration());
  }
  EXPECT_TRUE(status.code() == expected || no_place || full || too_long ||
              over_quota)
      << status << ", not " << absl::StatusCodeToString(expected);
}

// What the other tenant's sessions may need, within its share, and is not
// reserved for its turns already.
size_t Simulation::BytesKeptFrom(const TenantHandle& tenant) const {
  const std::vector<TenantUse> uses = engine_.sessions.UsesOfTenants();
  // It has a session by now, if it had none before.
  double weights = WeightOf(tenant);
  bool is_alone = true;
  for (const TenantUse& use : uses) {
    const bool asks = NumberOf(use.tenant) == NumberOf(tenant);
    if (asks || use.sessions == 0) continue;
    weights += WeightOf(use.tenant);
    is_alone = false;
  }
  if (is_alone) return 0;
  size_t kept = 0;
  for (const TenantUse& use : uses) {
    if (NumberOf(use.tenant) == NumberOf(tenant)) continue;
    size_t reserved = 0;
    for (const auto& [name, session] : sessions_) {
      const bool its = NumberOf(NameOf(name).tenant) == NumberOf(use.tenant);
      if (its && session->running) reserved += StateBytes(session->position());
    }
    for (const auto& [name, checkpoint] : checkpoints_) {
      const bool its = NumberOf(NameOf(name).tenant) == NumberOf(use.tenant);
      if (its) reserved += StateBytes(checkpoint->position());
    }
    const auto share =
        static_cast<size_t>(double(engine_.options.sessions.memory_bytes) *
                            WeightOf(use.tenant) / weights);
    const size_t needed = std::min(share, use.bytes);
    if (needed > reserved) kept += needed - reserved;
  }
  return kept;
}

size_t Simulation::StateBytes(int64_t tokens) const {
  if (tokens == 0) return 0;
  const size_t keys =
      engine_.options.has_attention
          ? (tokens + kBlockTokens - 1) / kBlockTokens * kBlockBytes
          : 0;
  return engine_.model.info().state_bytes + keys;
}

bool Simulation::CouldOutgrow(const Session* session,
                              const Request& request) const {
  if (!engine_.options.has_attention) return false;
  const int64_t answer =
      request.kind == RequestKind::kScore
          ? 0
          : std::max<int64_t>(0, request.stopping.max_tokens - 1);
  const int64_t tokens = (session == nullptr ? 0 : session->tokens.size()) +
                         request.prompt.size() + answer;
  const int64_t blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
  if (blocks * kBlockBytes > engine_.options.model.kv_bytes) return true;
  return !request.session_id.empty() &&
         StateBytes(tokens) + kOwnBytes > engine_.options.sessions.memory_bytes;
}

// --- Forks.

// The code that a fork must be refused with, unless there is no room.
absl::StatusCode Simulation::ExpectedForkRefusal(
    const std::string& source, const std::string& target) const {
  const SessionPointer session = Known(source);
  // Whether a session has left since it was last heard of, only the store can
  // know.
  if (session == nullptr || !engine_.sessions.Find(NameOf(source)).ok()) {
    return absl::StatusCode::kNotFound;
  }
  const SessionPointer other = Known(target);
  const bool exists =
      other != nullptr &&
      (other->running || engine_.sessions.Find(NameOf(target)).ok());
  return exists ? absl::StatusCode::kAlreadyExists : absl::StatusCode::kOk;
}

void Simulation::CheckForkRefusal(const std::string& source,
                                  absl::StatusCode expected,
                                  const absl::Status& status) {
  ++counts_.fork_refusals[CodeName(status)];
  if (expected != absl::StatusCode::kOk) {
    EXPECT_EQ(status.code(), expected) << status;
    return;
  }
  // Everything that may leave has left by now.
  ASSERT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  const SessionLimits& limits = engine_.options.sessions;
  const size_t bytes = engine_.sessions.Counts().ram_bytes +
                       StateBytes(Known(source)->position()) + kSessionFields;
  const size_t sessions = ListedSessions();
  EXPECT_TRUE(bytes > limits.memory_bytes ||
              sessions + running_.size() >=
                  static_cast<size_t>(limits.sessions))
      << status;
}

// --- Checkpoints.

void Simulation::CheckCheckpointRefusal(const std::string& source,
                                        const std::string& name,
                                        const absl::Status& status) {
  using Code = absl::StatusCode;
  ++counts_.checkpoint_refusals[CodeName(status)];
  const SessionPointer session = Known(source);
  if (session == nullptr || !engine_.sessions.Find(NameOf(source)).ok()) {
    EXPECT_EQ(status.code(), Code::kNotFound) << status;
    return;
  }
  if (session->position() == 0) {
    EXPECT_EQ(status.code(), Code::kFailedPrecondition) << status;
    return;
  }
  if (checkpoints_.contains(name)) {
    EXPECT_EQ(status.code(), Code::kAlreadyExists) << status;
    return;
  }
  ASSERT_EQ(status.code(), Code::kResourceExhausted) << status;
  // Of their number or of the memory a tenant has half of what all have, and
  // turns and sessions of others may leave less.
  const SessionLimits& limits = engine_.options.sessions;
  const SessionCounts::PerModel counts = engine_.sessions.Counts().models[0];
  const size_t bytes = counts.checkpoint_state_bytes +
                       StateBytes(session->position()) +
                       (checkpoints_.size() + 1) * kSessionFields;
  EXPECT_TRUE(2 * checkpoints_.size() + 2 >
                  static_cast<size_t>(limits.checkpoints) ||
              bytes > limits.memory_bytes / 4 || !running_.empty())
      << status;
}

}  // namespace engram
