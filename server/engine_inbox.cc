#include "server/engine_inbox.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

// The queue must have moved.
absl::Duration TimeToRetry(absl::Duration expected) {
  return std::clamp(expected, absl::Milliseconds(100), absl::Seconds(30));
}

std::string InMilliseconds(absl::Duration duration) {
  return absl::FormatDuration(absl::Trunc(duration, absl::Milliseconds(1)));
}

// Whether the one that stands later in the queue goes before the other.
bool GoesFirst(const Sequence& later, const Sequence& earlier,
               const SlotShares& shares) {
  if (later.request.tenant == earlier.request.tenant) {
    return later.request.priority > earlier.request.priority;
  }
  return shares.GoesBefore(AsWaiting(later), AsWaiting(earlier));
}

// What goes before a request that comes now: its tenant's, or of another's so
// much as has its turn before the request has.
struct Ahead {
  double requests = 0;
  double prompt_tokens = 0;
  double weight = 1;
};

}  // namespace

PromptAhead PromptAheadOf(const Request& request) {
  return {.priority = request.priority,
          .tokens = static_cast<int64_t>(request.prompt.size()),
          .tenant = NumberOf(request.tenant),
          .weight = WeightOf(request.tenant)};
}

EngineInbox::EngineInbox(int max_queue, absl::Duration max_queue_time,
                         Clock* clock)
    : max_queue_(max_queue),
      max_queue_time_(max_queue_time),
      clock_(clock),
      queue_time_(max_queue_time) {}

// --- Places.

absl::StatusOr<EngineInbox::Place> EngineInbox::Reserve(
    const Request& request) {
  absl::MutexLock lock(&mutex_);
  ENGRAM_RETURN_IF_ERROR(CheckRoom(request));
  reserved_.push_back(PromptAheadOf(request));
  return Place(this, std::prev(reserved_.end()));
}

void EngineInbox::GiveBack(Place::Reserved reserved) {
  absl::MutexLock lock(&mutex_);
  reserved_.erase(reserved);
  // An engine that drains may have waited for it alone.
  if (!closed_.empty()) awake_ = true;
}

void EngineInbox::Enqueue(Place place, std::unique_ptr<Sequence> sequence) {
  sequence->arrival = clock_->Now();
  EngineInbox* const inbox = std::exchange(place.inbox_, nullptr);
  ENGRAM_CHECK(inbox == this);
  absl::MutexLock lock(&mutex_);
  reserved_.erase(place.reserved_);
  queue_.push_back(std::move(sequence));
  awake_ = true;
}

absl::Status EngineInbox::CheckRoom(const Request& request) {
  if (!closed_.empty()) return absl::UnavailableError(closed_);
  const absl::Time now = clock_->Now();
  const absl::Duration expected = ExpectedWait(request, now);
  const size_t taken = queue_.size() + reserved_.size();
  if (static_cast<int>(taken) >= max_queue_) {
    return WithRetryAfter(
        absl::UnavailableError(
            absl::StrCat("the queue is full: ", taken, " requests wait, limit ",
                         max_queue_, " (--max-queue); try again later")),
        TimeToRetry(expected));
  }
  const int tenant = NumberOf(request.tenant);
  if (tenant != 0) {
    const Places places = PlacesOf(request);
    if (places.taken >= places.most) {
      return WithRetryAfter(
          absl::UnavailableError(absl::StrCat(
              "the queue is full for tenant \"", request.tenant->name(),
              "\": ", places.taken, " of its requests wait, limit ",
              places.most, " of ", max_queue_,
              " beside other tenants (--max-queue); try again later")),
          TimeToRetry(expected));
    }
    if (places.taken == 0) queue_time_.Rested(tenant);
  }
  const std::optional<absl::Duration> limit =
      queue_time_.Forbids(now, expected, tenant);
  if (!limit.has_value()) return absl::OkStatus();
  return WithRetryAfter(
      absl::UnavailableError(absl::StrCat(
          "the server is busy: the request would wait about ",
          InMilliseconds(expected), ", limit ", InMilliseconds(*limit),
          *limit < max_queue_time_ ? " while others wait all the time" : "",
          " (--max-queue-time); try again later")),
      TimeToRetry(expected));
}

EngineInbox::Places EngineInbox::PlacesOf(const Request& request) const {
  const PromptAhead mine = PromptAheadOf(request);
  absl::flat_hash_map<int, double> weights = {{mine.tenant, mine.weight}};
  Places places;
  const auto count = [&](const PromptAhead& other) {
    if (other.tenant == mine.tenant) ++places.taken;
    weights.try_emplace(other.tenant, other.weight);
  };
  for (const auto& waiting : queue_) count(PromptAheadOf(waiting->request));
  for (const PromptAhead& reserved : reserved_) count(reserved);
  // One more may come who is like it.
  double all = mine.weight;
  for (const auto& [tenant, weight] : weights) all += weight;
  places.most = std::max(1, static_cast<int>(max_queue_ * mine.weight / all));
  return places;
}

absl::Duration EngineInbox::ExpectedWait(const Request& request,
                                         absl::Time now) const {
  if (max_queue_time_ == absl::InfiniteDuration()) return absl::ZeroDuration();
  const PromptAhead mine = PromptAheadOf(request);
  const int free_slots = queue_time_.load().free_slots;
  Ahead own;
  absl::flat_hash_map<int, Ahead> others;
  const auto ahead_of = [&](const PromptAhead& other) -> Ahead& {
    if (other.tenant == mine.tenant) return own;
    Ahead& ahead = others[other.tenant];
    ahead.weight = other.weight;
    return ahead;
  };
  // Priorities and lengths count within a tenant.
  const auto goes_before = [&](const PromptAhead& other) {
    return other.tenant != mine.tenant || other.priority > mine.priority ||
           (other.priority == mine.priority && other.tokens <= mine.tokens);
  };
  const auto wait_for = [&](const PromptAhead& other) {
    if (other.tenant == mine.tenant && other.priority < mine.priority) return;
    Ahead& ahead = ahead_of(other);
    // Those that wait for a slot are in the time between two starts.
    if (ahead.requests++ < free_slots && goes_before(other)) {
      ahead.prompt_tokens += static_cast<double>(other.tokens);
    }
  };
  for (const auto& waiting : queue_) wait_for(PromptAheadOf(waiting->request));
  for (const PromptAhead& reserved : reserved_) wait_for(reserved);
  for (const PromptAhead& prompt : prompts_) {
    if (!goes_before(prompt)) continue;
    ahead_of(prompt).prompt_tokens += static_cast<double>(prompt.tokens);
  }
  Ahead all = own;
  for (const auto& [tenant, ahead] : others) {
    const double turns = ahead.weight / mine.weight;
    all.requests += std::min(ahead.requests, (own.requests + 1) * turns);
    all.prompt_tokens += std::min(
        ahead.prompt_tokens,
        (own.prompt_tokens + static_cast<double>(mine.tokens)) * turns);
  }
  const auto tokens = static_cast<int64_t>(all.prompt_tokens);
  if (mine.tenant != 0 &&
      own.requests < queue_time_.GivenTo(mine.tenant, mine.weight)) {
    return queue_time_.Feeding(tokens);
  }
  return queue_time_.Expected(now, static_cast<int>(all.requests), tokens);
}

absl::Duration EngineInbox::RetryTime(const Request& request) const {
  const absl::Time now = clock_->Now();
  absl::MutexLock lock(&mutex_);
  return TimeToRetry(ExpectedWait(request, now));
}

DeviceRoom EngineInbox::Room() const {
  absl::MutexLock lock(&mutex_);
  const QueueLoad& load = queue_time_.load();
  const int ahead =
      static_cast<int>(queue_.size() + reserved_.size()) + started_;
  return {.is_open = closed_.empty(),
          .empty_slots = load.empty_slots - ahead,
          .slots = load.free_slots - ahead};
}

void EngineInbox::Close(std::string reason) {
  absl::MutexLock lock(&mutex_);
  if (closed_.empty()) closed_ = std::move(reason);
  awake_ = true;
}

bool EngineInbox::closed() const {
  absl::MutexLock lock(&mutex_);
  return !closed_.empty();
}

// --- The engine takes.

void EngineInbox::SetLoad(QueueLoad load, std::vector<PromptAhead> prompts) {
  const absl::Time now = clock_->Now();
  absl::MutexLock lock(&mutex_);
  const int free_slots = load.free_slots;
  queue_time_.SetLoad(std::move(load));
  started_ = 0;
  if (queue_.empty() && prompts.empty() && free_slots > 0) {
    queue_time_.NobodyWaits(now);
  }
  prompts_ = std::move(prompts);
}

EngineInbox::Queue::const_iterator EngineInbox::FindNext(
    const SlotShares& shares) const {
  auto next = queue_.end();
  for (auto waiting = queue_.begin(); waiting != queue_.end(); ++waiting) {
    const Sequence& sequence = **waiting;
    if (sequence.fetch != nullptr && !sequence.fetch->is_over()) continue;
    if (next == queue_.end() || GoesFirst(sequence, **next, shares)) {
      next = waiting;
    }
  }
  return next;
}

std::optional<WaitingRequest> EngineInbox::Next(
    const SlotShares& shares) const {
  absl::MutexLock lock(&mutex_);
  const auto next = FindNext(shares);
  if (next == queue_.end()) return std::nullopt;
  return AsWaiting(**next);
}

std::unique_ptr<Sequence> EngineInbox::TakeNext(const SlotShares& shares) {
  absl::MutexLock lock(&mutex_);
  const auto next = FindNext(shares);
  if (next == queue_.end()) return nullptr;
  // Erasing nothing makes an iterator that may change what it points to.
  std::unique_ptr<Sequence> taken = std::move(*queue_.erase(next, next));
  queue_.erase(next);
  one_is_taken_ = true;
  return taken;
}

void EngineInbox::Started() {
  const absl::Time now = clock_->Now();
  absl::MutexLock lock(&mutex_);
  one_is_taken_ = false;
  queue_time_.Started(now, static_cast<int>(queue_.size()));
  ++started_;
}

void EngineInbox::NotStarted() {
  absl::MutexLock lock(&mutex_);
  one_is_taken_ = false;
  if (queue_.empty()) queue_time_.Emptied();
}

void EngineInbox::PutBack(std::unique_ptr<Sequence> sequence) {
  absl::MutexLock lock(&mutex_);
  one_is_taken_ = false;
  queue_.push_front(std::move(sequence));
}

std::vector<std::unique_ptr<Sequence>> EngineInbox::TakeWhere(
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

std::vector<std::unique_ptr<Sequence>> EngineInbox::TakeEnded(absl::Time now) {
  return TakeWhere([now](const Sequence& sequence) {
    return sequence.request.deadline <= now ||
           sequence.stream->cancelled().has_value();
  });
}

std::vector<std::unique_ptr<Sequence>> EngineInbox::TakeOverdue(
    absl::Time now) {
  if (max_queue_time_ == absl::InfiniteDuration()) return {};
  return TakeWhere([this, now](const Sequence& sequence) {
    return now - sequence.arrival > max_queue_time_;
  });
}

absl::Status EngineInbox::Overdue(const Sequence& sequence,
                                  absl::Time now) const {
  absl::MutexLock lock(&mutex_);
  return WithRetryAfter(absl::UnavailableError(absl::StrCat(
                            "the server is busy: the request waited ",
                            InMilliseconds(now - sequence.arrival), ", limit ",
                            InMilliseconds(max_queue_time_),
                            " (--max-queue-time); try again later")),
                        TimeToRetry(ExpectedWait(sequence.request, now)));
}

std::vector<std::unique_ptr<Sequence>> EngineInbox::TakeAll() {
  return TakeWhere([](const Sequence&) { return true; });
}

std::vector<std::unique_ptr<Sequence>> EngineInbox::TakeLast() {
  {
    absl::MutexLock lock(&mutex_);
    ENGRAM_CHECK(!closed_.empty());
    // Their Submit is at work, which waits for nothing.
    mutex_.Await(absl::Condition(
        +[](std::list<PromptAhead>* reserved) { return reserved->empty(); },
        &reserved_));
  }
  return TakeAll();
}

bool EngineInbox::empty() const {
  absl::MutexLock lock(&mutex_);
  return queue_.empty() && reserved_.empty() && !one_is_taken_;
}

int EngineInbox::waiting() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(queue_.size());
}

absl::Status EngineInbox::Post(std::function<void()> task) {
  absl::MutexLock lock(&mutex_);
  if (static_cast<int>(tasks_.size()) >= max_queue_ && !tasks_closed_) {
    return absl::UnavailableError(absl::StrCat(
        "the queue is full: ", tasks_.size(), " operations wait, limit ",
        max_queue_, " (--max-queue); try again later"));
  }
  return AddTask(std::move(task));
}

absl::Status EngineInbox::PostForRequest(std::function<void()> task) {
  absl::MutexLock lock(&mutex_);
  return AddTask(std::move(task));
}

absl::Status EngineInbox::AddTask(std::function<void()> task) {
  if (tasks_closed_) return absl::UnavailableError("the server is stopping");
  tasks_.push_back(std::move(task));
  awake_ = true;
  return absl::OkStatus();
}

int EngineInbox::tasks() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(tasks_.size());
}

std::vector<std::function<void()>> EngineInbox::TakeTasks() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(tasks_, {});
}

void EngineInbox::CloseTasks() {
  absl::MutexLock lock(&mutex_);
  tasks_closed_ = true;
}

void EngineInbox::Wake() {
  absl::MutexLock lock(&mutex_);
  awake_ = true;
}

void EngineInbox::WaitForWork(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&awake_), timeout);
  awake_ = false;
}

}  // namespace engram
