#include "server/admission.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/status.h"

namespace engram {
namespace {

absl::Status CheckIds(absl::string_view field, const std::vector<int32_t>& ids,
                      int64_t vocabulary_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocabulary_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, "[", i, "] is ", ids[i], ", limit 0 to ",
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
      memory_(limits.request_bytes) {}

absl::StatusOr<Admission::Admitted> Admission::Submit(Request request) {
  ENGRAM_RETURN_IF_ERROR(CheckLimits(request));
  if (!request.session_id.empty() && request.kind == RequestKind::kGenerate) {
    request.identity = IdentityOf(request);
  }
  absl::StatusOr<ByteBudget::Share> memory = TakeMemory(request);
  auto stream = std::make_shared<TokenStream>(limits_.stream_tokens,
                                              [this] { Wake(); });
  auto sequence =
      std::make_unique<Sequence>(std::move(request), model_.tokenizer, stream);
  ENGRAM_RETURN_IF_ERROR(ReadReceived(sequence.get(), model_.eos_token_ids));
  const Request& taken = sequence->request;
  if (memory.ok()) sequence->memory = *std::move(memory);
  if (!taken.session_id.empty() && taken.kind == RequestKind::kGenerate) {
    // A repeat that is answered from a record takes no place.
    absl::Status may_queue = memory.status();
    if (may_queue.ok()) {
      absl::MutexLock lock(&mutex_);
      may_queue = CheckQueue();
    }
    ENGRAM_ASSIGN_OR_RETURN(
        SessionStore::TurnOrRecord turn,
        sessions_->BeginTurn(model_.number, taken,
                             [stream](absl::Status reason) {
                               stream->Cancel(std::move(reason));
                             },
                             may_queue));
    if (auto* record =
            std::get_if<std::shared_ptr<const TurnRecord>>(&turn)) {
      return Admitted(std::move(*record));
    }
    auto& begun = std::get<SessionStore::Turn>(turn);
    sequence->session = begun.session;
    sequence->start = std::move(begun.start);
  } else if (!memory.ok()) {
    return memory.status();
  } else if (!taken.session_id.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(sequence->session,
                            sessions_->FindOfModel(taken.session_id,
                                                   model_.number));
  } else if (taken.prompt.empty()) {
    return absl::InvalidArgumentError(
        "the prompt is empty and there is no session to go on from");
  } else {
    ENGRAM_RETURN_IF_ERROR(CheckLength(model_.capacity, /*before=*/0, taken));
  }
  const SessionHandle session = sequence->session;
  const bool is_turn = session != nullptr && taken.kind == RequestKind::kGenerate;
  absl::Status queued = Enqueue(std::move(sequence));
  if (!queued.ok()) {
    if (is_turn) sessions_->Abort(session);
    return queued;
  }
  return Admitted(std::move(stream));
}

absl::StatusOr<ByteBudget::Share> Admission::TakeMemory(
    const Request& request) {
  const size_t bytes = SequenceBytes(request);
  std::optional<ByteBudget::Share> share = memory_.Take(bytes);
  if (share.has_value()) return *std::move(share);
  if (bytes > memory_.limit()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the request takes ", bytes, " bytes, limit ",
                     memory_.limit(), " (--request-memory)"));
  }
  return absl::UnavailableError(absl::StrCat(
      "the queue is full: requests that wait or run take ", memory_.taken(),
      " bytes, this one ", bytes, ", limit ", memory_.limit(),
      " (--request-memory); try again later"));
}

absl::Status Admission::CheckLimits(const Request& request) const {
  ENGRAM_RETURN_IF_ERROR(Validate(request.sampling, model_.vocabulary_size));
  const bool score = request.kind == RequestKind::kScore;
  ENGRAM_RETURN_IF_ERROR(CheckCount(
      score ? "the text to score" : "the prompt",
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

absl::Status Admission::CheckQueue() const {
  if (!closed_.empty()) return absl::UnavailableError(closed_);
  if (static_cast<int>(queue_.size()) >= limits_.max_queue) {
    return absl::UnavailableError(
        absl::StrCat("the queue is full: ", queue_.size(),
                     " requests wait, limit ", limits_.max_queue,
                     " (--max-queue); try again later"));
  }
  return absl::OkStatus();
}

absl::Status Admission::Enqueue(std::unique_ptr<Sequence> sequence) {
  const absl::Time now = clock_->Now();
  absl::MutexLock lock(&mutex_);
  ENGRAM_RETURN_IF_ERROR(CheckQueue());
  sequence->arrival = now;
  queue_.push_back(std::move(sequence));
  awake_ = true;
  return absl::OkStatus();
}

void Admission::Close(std::string reason) {
  absl::MutexLock lock(&mutex_);
  if (closed_.empty()) closed_ = std::move(reason);
  awake_ = true;
}

bool Admission::closed() const {
  absl::MutexLock lock(&mutex_);
  return !closed_.empty();
}

std::unique_ptr<Sequence> Admission::TakeNext() {
  absl::MutexLock lock(&mutex_);
  auto best = std::max_element(
      queue_.begin(), queue_.end(), [](const auto& a, const auto& b) {
        return a->request.priority < b->request.priority;
      });
  if (best == queue_.end()) return nullptr;
  std::unique_ptr<Sequence> taken = std::move(*best);
  queue_.erase(best);
  return taken;
}

void Admission::PutBack(std::unique_ptr<Sequence> sequence) {
  absl::MutexLock lock(&mutex_);
  queue_.push_front(std::move(sequence));
}

std::vector<std::unique_ptr<Sequence>> Admission::TakeEnded(absl::Time now) {
  std::vector<std::unique_ptr<Sequence>> ended;
  absl::MutexLock lock(&mutex_);
  for (auto next = queue_.begin(); next != queue_.end();) {
    if ((*next)->request.deadline <= now || (*next)->stream->cancelled()) {
      ended.push_back(std::move(*next));
      next = queue_.erase(next);
    } else {
      ++next;
    }
  }
  return ended;
}

std::vector<std::unique_ptr<Sequence>> Admission::TakeAll() {
  absl::MutexLock lock(&mutex_);
  std::vector<std::unique_ptr<Sequence>> all(
      std::make_move_iterator(queue_.begin()),
      std::make_move_iterator(queue_.end()));
  queue_.clear();
  return all;
}

int Admission::waiting() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(queue_.size());
}

absl::Status Admission::Post(std::function<void()> task) {
  absl::MutexLock lock(&mutex_);
  if (tasks_closed_) return absl::UnavailableError("the server is stopping");
  if (static_cast<int>(tasks_.size()) >= limits_.max_queue) {
    return absl::UnavailableError(
        absl::StrCat("the queue is full: ", tasks_.size(),
                     " operations wait, limit ", limits_.max_queue,
                     " (--max-queue); try again later"));
  }
  tasks_.push_back(std::move(task));
  awake_ = true;
  return absl::OkStatus();
}

std::vector<std::function<void()>> Admission::TakeTasks() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(tasks_, {});
}

void Admission::CloseTasks() {
  absl::MutexLock lock(&mutex_);
  tasks_closed_ = true;
}

void Admission::Wake() {
  absl::MutexLock lock(&mutex_);
  awake_ = true;
}

void Admission::WaitForWork(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&awake_), timeout);
  awake_ = false;
}

}  // namespace engram
