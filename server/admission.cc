#include "server/admission.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/status.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

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

// When it may be of use to come again: the queue must have moved.
absl::Duration RetryTime(absl::Duration expected) {
  return std::clamp(expected, absl::Milliseconds(100), absl::Seconds(30));
}

std::string InMilliseconds(absl::Duration duration) {
  return absl::FormatDuration(absl::Trunc(duration, absl::Milliseconds(1)));
}

}  // namespace

Admission::Admission(const AdmissionLimits& limits, AdmissionModel model,
                     SessionStore* sessions, Clock* clock)
    : limits_(limits),
      model_(std::move(model)),
      sessions_(sessions),
      clock_(clock),
      memory_(limits.request_bytes),
      queue_time_(limits.max_queue_time) {}

absl::StatusOr<Admission::Admitted> Admission::Submit(Request request) {
  ENGRAM_RETURN_IF_ERROR(CheckLimits(request));
  if (!request.session_id.empty() && request.kind == RequestKind::kGenerate) {
    request.identity = IdentityOf(request);
  }
  absl::StatusOr<ByteBudget::Share> memory = TakeMemory(request);
  auto stream =
      std::make_shared<TokenStream>(limits_.stream_tokens, [this] { Wake(); });
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
      may_queue = CheckQueue(taken);
    }
    ENGRAM_ASSIGN_OR_RETURN(SessionStore::TurnOrRecord turn,
                            sessions_->BeginTurn(
                                model_.number, taken,
                                [stream](absl::Status reason) {
                                  stream->Cancel(std::move(reason));
                                },
                                may_queue));
    if (auto* record = std::get_if<std::shared_ptr<const TurnRecord>>(&turn)) {
      return Admitted(std::move(*record));
    }
    auto& begun = std::get<SessionStore::Turn>(turn);
    sequence->session = begun.session;
    sequence->start = std::move(begun.start);
  } else if (!memory.ok()) {
    return memory.status();
  } else if (!taken.session_id.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(
        sequence->session,
        sessions_->FindOfModel(taken.session_id, model_.number));
  } else if (taken.prompt.empty()) {
    return absl::InvalidArgumentError(
        "the prompt is empty and there is no session to go on from");
  } else {
    ENGRAM_RETURN_IF_ERROR(CheckLength(model_.capacity, /*before=*/0, taken));
  }
  const SessionHandle session = sequence->session;
  const bool is_turn =
      session != nullptr && taken.kind == RequestKind::kGenerate;
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
  absl::MutexLock lock(&mutex_);
  return WithRetryAfter(
      absl::UnavailableError(absl::StrCat(
          "the queue is full: requests that wait or run take ", memory_.taken(),
          " bytes, this one ", bytes, ", limit ", memory_.limit(),
          " (--request-memory); try again later")),
      RetryTime(ExpectedWait(request, clock_->Now())));
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

absl::Status Admission::CheckQueue(const Request& request) {
  if (!closed_.empty()) return absl::UnavailableError(closed_);
  const absl::Time now = clock_->Now();
  const absl::Duration expected = ExpectedWait(request, now);
  if (static_cast<int>(queue_.size()) >= limits_.max_queue) {
    return WithRetryAfter(
        absl::UnavailableError(absl::StrCat(
            "the queue is full: ", queue_.size(), " requests wait, limit ",
            limits_.max_queue, " (--max-queue); try again later")),
        RetryTime(expected));
  }
  const std::optional<absl::Duration> limit =
      queue_time_.Forbids(now, expected);
  if (!limit.has_value()) return absl::OkStatus();
  return WithRetryAfter(
      absl::UnavailableError(absl::StrCat(
          "the server is busy: the request would wait about ",
          InMilliseconds(expected), ", limit ", InMilliseconds(*limit),
          *limit < limits_.max_queue_time ? " while others wait all the time"
                                          : "",
          " (--max-queue-time); try again later")),
      RetryTime(expected));
}

absl::Duration Admission::ExpectedWait(const Request& request,
                                       absl::Time now) const {
  if (limits_.max_queue_time == absl::InfiniteDuration()) {
    return absl::ZeroDuration();
  }
  const auto tokens = static_cast<int64_t>(request.prompt.size());
  int requests = 0;
  int64_t tokens_ahead = 0;
  for (const auto& waiting : queue_) {
    const Request& other = waiting->request;
    if (other.priority < request.priority) continue;
    const auto other_tokens = static_cast<int64_t>(other.prompt.size());
    // Those that wait for a slot are in the time between two starts.
    if (requests++ < queue_time_.load().free_slots &&
        (other.priority > request.priority || other_tokens <= tokens)) {
      tokens_ahead += other_tokens;
    }
  }
  for (const PromptAhead& prompt : prompts_) {
    if (prompt.priority > request.priority ||
        (prompt.priority == request.priority && prompt.tokens <= tokens)) {
      tokens_ahead += prompt.tokens;
    }
  }
  return queue_time_.Expected(now, requests, tokens_ahead);
}

absl::Status Admission::Enqueue(std::unique_ptr<Sequence> sequence) {
  const absl::Time now = clock_->Now();
  absl::MutexLock lock(&mutex_);
  ENGRAM_RETURN_IF_ERROR(CheckQueue(sequence->request));
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

void Admission::SetLoad(const QueueLoad& load,
                        std::vector<PromptAhead> prompts) {
  const absl::Time now = clock_->Now();
  absl::MutexLock lock(&mutex_);
  queue_time_.SetLoad(load);
  if (queue_.empty() && prompts.empty() && load.free_slots > 0) {
    queue_time_.NobodyWaits(now);
  }
  prompts_ = std::move(prompts);
}

std::list<std::unique_ptr<Sequence>>::const_iterator Admission::FindNext()
    const {
  return std::max_element(queue_.begin(), queue_.end(),
                          [](const auto& a, const auto& b) {
                            return a->request.priority < b->request.priority;
                          });
}

std::optional<WaitingRequest> Admission::Next() const {
  absl::MutexLock lock(&mutex_);
  const auto next = FindNext();
  if (next == queue_.end()) return std::nullopt;
  return AsWaiting(**next);
}

std::unique_ptr<Sequence> Admission::TakeNext() {
  absl::MutexLock lock(&mutex_);
  const auto next = FindNext();
  if (next == queue_.end()) return nullptr;
  // Erasing nothing makes an iterator that may change what it points to.
  std::unique_ptr<Sequence> taken = std::move(*queue_.erase(next, next));
  queue_.erase(next);
  return taken;
}

void Admission::Started() {
  const absl::Time now = clock_->Now();
  absl::MutexLock lock(&mutex_);
  queue_time_.Started(now, static_cast<int>(queue_.size()));
}

void Admission::NotStarted() {
  absl::MutexLock lock(&mutex_);
  if (queue_.empty()) queue_time_.Emptied();
}

void Admission::PutBack(std::unique_ptr<Sequence> sequence) {
  absl::MutexLock lock(&mutex_);
  queue_.push_front(std::move(sequence));
}

std::vector<std::unique_ptr<Sequence>> Admission::TakeWhere(
    absl::FunctionRef<bool(const Sequence&)> leaves) {
  std::vector<std::unique_ptr<Sequence>> taken;
  absl::MutexLock lock(&mutex_);
  for (auto next = queue_.begin(); next != queue_.end();) {
    if (leaves(**next)) {
      taken.push_back(std::move(*next));
      next = queue_.erase(next);
    } else {
      ++next;
    }
  }
  if (!taken.empty() && queue_.empty()) queue_time_.Emptied();
  return taken;
}

std::vector<std::unique_ptr<Sequence>> Admission::TakeEnded(absl::Time now) {
  return TakeWhere([now](const Sequence& sequence) {
    return sequence.request.deadline <= now ||
           sequence.stream->cancelled().has_value();
  });
}

std::vector<std::unique_ptr<Sequence>> Admission::TakeOverdue(absl::Time now) {
  if (limits_.max_queue_time == absl::InfiniteDuration()) return {};
  return TakeWhere([this, now](const Sequence& sequence) {
    return now - sequence.arrival > limits_.max_queue_time;
  });
}

absl::Status Admission::Overdue(const Sequence& sequence,
                                absl::Time now) const {
  absl::MutexLock lock(&mutex_);
  return WithRetryAfter(absl::UnavailableError(absl::StrCat(
                            "the server is busy: the request waited ",
                            InMilliseconds(now - sequence.arrival), ", limit ",
                            InMilliseconds(limits_.max_queue_time),
                            " (--max-queue-time); try again later")),
                        RetryTime(ExpectedWait(sequence.request, now)));
}

std::vector<std::unique_ptr<Sequence>> Admission::TakeAll() {
  return TakeWhere([](const Sequence&) { return true; });
}

int Admission::waiting() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(queue_.size());
}

absl::Status Admission::Post(std::function<void()> task) {
  absl::MutexLock lock(&mutex_);
  if (tasks_closed_) return absl::UnavailableError("the server is stopping");
  if (static_cast<int>(tasks_.size()) >= limits_.max_queue) {
    return absl::UnavailableError(absl::StrCat(
        "the queue is full: ", tasks_.size(), " operations wait, limit ",
        limits_.max_queue, " (--max-queue); try again later"));
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
