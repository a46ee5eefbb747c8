#include "server/admission.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "kernels/status.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

bool IsTurn(const Request& request) {
  return !request.session_id.empty() && request.kind == RequestKind::kGenerate;
}

absl::Status CheckIds(absl::string_view field, const std::vector<int32_t>& ids,
                      int64_t vocabulary_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocabulary_size) {
      return absl::InvalidArgumentError(absl::StrCat(field, "[", i, "] is ",
                                                     ids[i], ", limit 0 to ",
                                                     vocabulary_size - 1));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCount(absl::string_view what, int64_t count, int64_t limit,
                        absl::string_view flag) {
  if (count <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      what, " has ", count, " tokens, limit ", limit, " (", flag, ")"));
}

}  // namespace

Admission::Admission(const AdmissionLimits& limits, AdmissionModel model,
                     SessionStore* sessions, Clock* clock)
    : limits_(limits),
      model_(std::move(model)),
      sessions_(sessions),
      clock_(clock),
      memory_(limits.request_bytes) {
  for (int device = 0; device < model_.devices; ++device) {
    inboxes_.push_back(std::make_unique<EngineInbox>(
        limits.max_queue, limits.max_queue_time, clock));
  }
}

void Admission::Close(const std::string& reason) {
  for (const auto& inbox : inboxes_) inbox->Close(reason);
}

EngineInbox& Admission::ChooseInbox(const Request& request) const {
  if (inboxes_.size() == 1) return *inboxes_.front();
  std::vector<DeviceRoom> rooms;
  for (const auto& inbox : inboxes_) rooms.push_back(inbox->Room());
  const std::optional<int> holder =
      request.session_id.empty() ? std::nullopt
                                 : sessions_->DeviceOf(request.session());
  return *inboxes_[ChooseDevice(rooms, holder)];
}

absl::StatusOr<Admission::Admitted> Admission::Submit(Request request) {
  ENGRAM_RETURN_IF_ERROR(CheckLimits(request));
  if (IsTurn(request)) request.identity = IdentityOf(request);
  std::optional<absl::MutexLock> choosing;
  if (inboxes_.size() > 1) choosing.emplace(&choosing_);
  EngineInbox& inbox = ChooseInbox(request);
  auto stream = std::make_shared<TokenStream>(
      limits_.stream_tokens, [&inbox] { inbox.Wake(); }, model_.tokenizer);
  auto sequence =
      std::make_unique<Sequence>(std::move(request), model_.tokenizer, stream);
  absl::StatusOr<EngineInbox::Place> place = Reserve(sequence.get(), &inbox);
  choosing.reset();
  ENGRAM_RETURN_IF_ERROR(ReadReceived(sequence.get()));
  if (sequence->request.stopping.stop.empty()) {
    stream->SetText(std::move(sequence->text));
  }
  if (!place.ok()) {
    // A repeat that is answered from a record needs no place, and what is wrong
    // with the request itself is told first.
    ENGRAM_ASSIGN_OR_RETURN(auto record, FindRecord(sequence->request));
    if (record != nullptr) return Admitted(std::move(record));
    return place.status();
  }
  ENGRAM_ASSIGN_OR_RETURN(auto record, Begin(sequence.get()));
  if (record != nullptr) return Admitted(std::move(record));
  inbox.Enqueue(*std::move(place), std::move(sequence));
  return Admitted(std::move(stream));
}

absl::StatusOr<EngineInbox::Place> Admission::Reserve(Sequence* sequence,
                                                      EngineInbox* inbox) {
  const Request& request = sequence->request;
  ENGRAM_ASSIGN_OR_RETURN(
      sequence->place,
      TenantPlace::Take(
          request.tenant,
          static_cast<int64_t>(request.prompt.size() + request.received.size()),
          clock_->Now()));
  ENGRAM_ASSIGN_OR_RETURN(sequence->memory, TakeMemory(request, *inbox));
  return inbox->Reserve(request);
}

absl::StatusOr<std::shared_ptr<const TurnRecord>> Admission::FindRecord(
    const Request& request) const {
  if (IsTurn(request)) return sessions_->CheckTurn(model_.number, request);
  ENGRAM_RETURN_IF_ERROR(FindSession(request).status());
  return nullptr;
}

absl::StatusOr<std::shared_ptr<const TurnRecord>> Admission::Begin(
    Sequence* sequence) {
  const Request& request = sequence->request;
  if (!IsTurn(request)) {
    ENGRAM_ASSIGN_OR_RETURN(sequence->session, FindSession(request));
    return nullptr;
  }
  ENGRAM_ASSIGN_OR_RETURN(
      SessionStore::TurnOrRecord begun,
      sessions_->BeginTurn(model_.number, request,
                           [stream = sequence->stream](absl::Status reason) {
                             stream->Cancel(std::move(reason));
                           }));
  if (auto* record = std::get_if<std::shared_ptr<const TurnRecord>>(&begun)) {
    return std::move(*record);
  }
  auto& turn = std::get<SessionStore::Turn>(begun);
  sequence->session = std::move(turn.session);
  sequence->start = std::move(turn.start);
  return nullptr;
}

absl::StatusOr<SessionHandle> Admission::FindSession(
    const Request& request) const {
  if (!request.session_id.empty()) {
    return sessions_->FindOfModel(request.session(), model_.number);
  }
  return FindCheckpoint(request);
}

absl::StatusOr<SessionHandle> Admission::FindCheckpoint(
    const Request& request) const {
  SessionHandle checkpoint;
  CommittedTurns start;
  if (!request.from_checkpoint.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(
        checkpoint,
        sessions_->UseCheckpoint(request.checkpoint(), model_.number));
    ENGRAM_ASSIGN_OR_RETURN(SessionStore::Location location,
                            sessions_->Locate(checkpoint));
    start = std::move(location.turns);
  }
  if (request.prompt.empty() && !start.pending.has_value()) {
    return absl::InvalidArgumentError(
        checkpoint == nullptr
            ? "the prompt is empty and there is no session to go on from"
            : "the prompt is empty and the checkpoint has no pending token to "
              "go on from");
  }
  ENGRAM_RETURN_IF_ERROR(CheckLength(model_.capacity, start.tokens(), request));
  return checkpoint;
}

absl::StatusOr<TenantBudget::Share> Admission::TakeMemory(
    const Request& request, const EngineInbox& inbox) {
  const size_t bytes = SequenceBytes(request);
  TenantBudget::Shortage shortage;
  std::optional<TenantBudget::Share> share =
      memory_.Take(request.tenant.get(), bytes, &shortage);
  if (share.has_value()) return *std::move(share);
  if (bytes > memory_.limit()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the request takes ", bytes, " bytes, limit ",
                     memory_.limit(), " (--request-memory)"));
  }
  const std::string whose =
      shortage.of_tenant
          ? absl::StrCat(" of tenant \"", request.tenant->name(), "\"")
          : "";
  return WithRetryAfter(
      absl::UnavailableError(absl::StrCat(
          "the queue is full: requests", whose, " that wait or run take ",
          shortage.taken, " bytes, this one ", bytes, ", limit ",
          shortage.limit, shortage.of_tenant ? " beside other tenants" : "",
          " (--request-memory); try again later")),
      inbox.RetryTime(request));
}

absl::Status Admission::CheckLimits(const Request& request) const {
  ENGRAM_RETURN_IF_ERROR(Validate(request.sampling, model_.vocabulary_size));
  const bool score = request.kind == RequestKind::kScore;
  ENGRAM_RETURN_IF_ERROR(
      CheckCount(score ? "the text to score" : "the prompt",
                 static_cast<int64_t>(request.prompt.size()),
                 score ? limits_.max_score_tokens : limits_.max_prompt_tokens,
                 score ? "--max-score-tokens" : "--max-prompt-tokens"));
  ENGRAM_RETURN_IF_ERROR(
      CheckIds("prompt token", request.prompt, model_.vocabulary_size));
  if (score && request.prompt.empty()) {
    return absl::InvalidArgumentError("there is no text to score");
  }
  if (request.stopping.max_tokens > limits_.max_generated_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_tokens is ", request.stopping.max_tokens, ", limit ",
        limits_.max_generated_tokens, " (--max-generated-tokens)"));
  }
  ENGRAM_RETURN_IF_ERROR(CheckIds("stop_token_ids",
                                  request.stopping.stop_token_ids,
                                  model_.vocabulary_size));
  if (request.deadline <= clock_->Now()) {
    return absl::DeadlineExceededError("the deadline has passed already");
  }
  return CheckReceived(request);
}

absl::Status Admission::CheckReceived(const Request& request) const {
  const std::vector<int32_t>& received = request.received;
  ENGRAM_RETURN_IF_ERROR(
      CheckIds("received_token_ids", received, model_.vocabulary_size));
  if (static_cast<int64_t>(received.size()) > request.stopping.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("received_token_ids has ", received.size(),
                     " tokens, max_tokens is ", request.stopping.max_tokens));
  }
  return absl::OkStatus();
}

}  // namespace engram
