#include "server/turn_checks.h"

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "server/request_id.h"
#include "server/session.h"

namespace engram {
namespace {

// What a session's own fields take, roughly, before its client adds to them.
constexpr size_t kSessionBytes = 1024;

// A request that is not among those remembered has not committed.
absl::Status CheckIsNew(const Session& session, const Request& request,
                        const SessionLimits& limits) {
  const int64_t forgotten = session.remembered.forgotten();
  // What expects the present version has not committed: it would be another.
  if (forgotten == 0 || request.expected_version.has_value()) {
    return absl::OkStatus();
  }
  // An id made at a version commits as a later one.
  const auto made_at = VersionOfRequestId(session.name, request.request_id);
  if (made_at.has_value() && *made_at >= forgotten) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("session ", Quoted(session.name.id),
                   " has forgotten the request_ids up to version ", forgotten,
                   " (it remembers ", limits.remembered_turns,
                   ", --remembered-turns), and ", Quoted(request.request_id),
                   " may be one of them: send expected_version, which is ",
                   session.turns.version, ", or leave request_id out"));
}

absl::StatusOr<std::shared_ptr<const TurnRecord>> FindReplay(
    const Session& session, const Request& request, uint64_t digest,
    const SessionLimits& limits) {
  const auto& record = session.record;
  if (record != nullptr && record->request_id == request.request_id) {
    if (record->identity != request.identity) {
      return absl::InvalidArgumentError(absl::StrCat(
          "request_id ", Quoted(request.request_id),
          " was used for another request on session ", Quoted(session.name.id),
          "; a new request needs a new id"));
    }
    return record;
  }
  if (const auto version = session.remembered.Find(digest)) {
    return absl::AlreadyExistsError(
        absl::StrCat("request_id ", Quoted(request.request_id),
                     " has committed as version ", *version, " of session ",
                     Quoted(session.name.id), ", which is at version ",
                     session.turns.version, "; its answer is no longer kept"));
  }
  ENGRAM_RETURN_IF_ERROR(CheckIsNew(session, request, limits));
  return nullptr;
}

absl::Status CheckLengthOf(const Session& session, const Request& request,
                           const ModelCapacity& capacity,
                           const SessionLimits& limits) {
  const int64_t before = session.turns.tokens();
  ENGRAM_RETURN_IF_ERROR(CheckLength(capacity, before, request));
  // States of one size fit, which was seen at start. One that has grown beyond
  // what RAM can hold would be lost when its slot is needed.
  if (capacity.kv_block_bytes == 0) return absl::OkStatus();
  const int64_t tokens = TokensInTheEnd(before, request);
  const size_t bytes = capacity.StateBytes(tokens) + kSessionBytes;
  if (bytes <= limits.memory_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the session could come to ", tokens, " tokens, with which it takes ",
      bytes, " bytes, limit ", limits.memory_bytes, " (--session-memory)"));
}

absl::Status CheckMayRun(const Session& session, const Request& request) {
  if (session.running) {
    return absl::AbortedError(absl::StrCat("session ", Quoted(session.name.id),
                                           " has a turn that is running"));
  }
  // One that is to start from a checkpoint has no version of its own yet.
  const int64_t version = session.is_new() ? 0 : session.turns.version;
  if (request.expected_version.value_or(version) != version) {
    return absl::FailedPreconditionError(absl::StrCat(
        "session ", Quoted(session.name.id), " has version ", version,
        ", expected_version is ", *request.expected_version));
  }
  if (!request.from_checkpoint.empty() && !session.is_new()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "session ", Quoted(session.name.id), " exists, at version ", version,
        "; only a new one can start from_checkpoint"));
  }
  if (request.prompt.empty() && !session.turns.pending.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the prompt is empty and session ", Quoted(session.name.id),
        " has no pending token to go on from"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const TurnRecord>> CheckTurnOf(
    const Session& session, const Request& request, uint64_t digest,
    const ModelCapacity& capacity, const SessionLimits& limits) {
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<const TurnRecord> record,
                          FindReplay(session, request, digest, limits));
  if (record != nullptr) return record;
  ENGRAM_RETURN_IF_ERROR(CheckMayRun(session, request));
  ENGRAM_RETURN_IF_ERROR(CheckLengthOf(session, request, capacity, limits));
  return nullptr;
}

}  // namespace engram
