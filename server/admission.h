// Admission: accepts a request or refuses it at once, and holds the bounded
// queue of those accepted until the engine takes them.
//
// Submit never blocks and never computes: it checks limits, begins the turn on
// the session (server/session_store.h has the order of checks) and queues. What
// it accepts ends exactly once, through its TokenStream.
//
// Thread-safe.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/clock.h"
#include "server/model_capacity.h"
#include "server/queue_time.h"
#include "server/sequence.h"

namespace engram {

struct AdmissionLimits {
  int max_queue = 1024;
  // Of those that wait or run: SequenceBytes.
  size_t request_bytes = size_t{512} << 20;
  // That a request may wait for a slot (server/queue_time.h).
  absl::Duration max_queue_time = absl::InfiniteDuration();
  int64_t max_prompt_tokens = int64_t{1} << 20;
  int64_t max_generated_tokens = int64_t{1} << 20;
  int64_t max_score_tokens = int64_t{1} << 16;
  int stream_tokens = 256;  // of one TokenStream
};

// What admission knows of the model that it queues for.
struct AdmissionModel {
  int number = 0;  // SessionStore::AddModel
  int64_t vocabulary_size = 0;
  ModelCapacity capacity;
  const Tokenizer* tokenizer = nullptr;  // may be nullptr
  std::vector<int32_t> eos_token_ids;
};

// A prompt that is being fed, as newcomers see it.
struct PromptAhead {
  int priority = 0;
  int64_t tokens = 0;  // left of it
};

class Admission {
 public:
  // All pointers must outlive this.
  Admission(const AdmissionLimits& limits, AdmissionModel model,
            SessionStore* sessions, Clock* clock);

  using Admitted = std::variant<std::shared_ptr<TokenStream>,
                                std::shared_ptr<const TurnRecord>>;
  // A stream of events to come, or the record of a turn that has committed, to
  // be replayed. INVALID_ARGUMENT: over a fixed limit, an id out of range,
  // longer than the model can ever hold.
  // UNAVAILABLE: the queue is full or would take too long (RetryAfter says when
  // to come again), or the server is draining or unhealthy.
  // Others: SessionStore::BeginTurn, SessionStore::Find.
  absl::StatusOr<Admitted> Submit(Request request);

  // As SessionStore::MakeRequestId.
  std::string MakeRequestId(const std::string& session_id) const {
    return sessions_->MakeRequestId(session_id);
  }

  // From now on Submit answers UNAVAILABLE with this reason.
  void Close(std::string reason);
  bool closed() const;

  // --- Engine.
  // What runs, after each step: for how long newcomers would wait.
  void SetLoad(const QueueLoad& load, std::vector<PromptAhead> prompts);
  // The one that TakeNext would take now.
  std::optional<WaitingRequest> Next() const;
  // Of highest priority, then the earliest; nullptr if none waits.
  std::unique_ptr<Sequence> TakeNext();
  // The one that was just taken has its slot.
  void Started();
  // The one that was just taken ends without one.
  void NotStarted();
  // The one that was just taken waits on, before the others of its priority.
  void PutBack(std::unique_ptr<Sequence> sequence);
  // Those that are cancelled or past their deadline at `now`.
  std::vector<std::unique_ptr<Sequence>> TakeEnded(absl::Time now);
  // Those that have waited longer than max_queue_time.
  std::vector<std::unique_ptr<Sequence>> TakeOverdue(absl::Time now);
  // What these are told.
  absl::Status Overdue(const Sequence& sequence, absl::Time now) const;
  std::vector<std::unique_ptr<Sequence>> TakeAll();
  int waiting() const;
  // `task` runs on the engine thread, between steps. UNAVAILABLE if as many
  // tasks wait as the queue may hold, or if no engine will run it any more.
  absl::Status Post(std::function<void()> task);
  std::vector<std::function<void()>> TakeTasks();
  // No task is taken from now on.
  void CloseTasks();

  // Makes WaitForWork return.
  void Wake();
  // Returns when something was submitted or Wake was called since it last
  // returned, or after `timeout`.
  void WaitForWork(absl::Duration timeout);

 private:
  // UNAVAILABLE if those that wait and run leave no room for it.
  absl::StatusOr<ByteBudget::Share> TakeMemory(const Request& request);
  absl::Status CheckLimits(const Request& request) const;
  absl::Status CheckReceived(const Request& request) const;
  absl::Status Enqueue(std::unique_ptr<Sequence> sequence);
  absl::Status CheckQueue(const Request& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration ExpectedWait(const Request& request, absl::Time now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::list<std::unique_ptr<Sequence>>::const_iterator FindNext() const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes those of the queue that `leaves` is true of.
  std::vector<std::unique_ptr<Sequence>> TakeWhere(
      absl::FunctionRef<bool(const Sequence&)> leaves)
      ABSL_LOCKS_EXCLUDED(mutex_);

  const AdmissionLimits limits_;
  const AdmissionModel model_;
  SessionStore* const sessions_;
  Clock* const clock_;
  ByteBudget memory_;

  mutable absl::Mutex mutex_;
  std::list<std::unique_ptr<Sequence>> queue_ ABSL_GUARDED_BY(mutex_);
  QueueTime queue_time_ ABSL_GUARDED_BY(mutex_);
  std::vector<PromptAhead> prompts_ ABSL_GUARDED_BY(mutex_);  // that run
  std::vector<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  std::string closed_ ABSL_GUARDED_BY(mutex_);  // the reason, if it is
  bool tasks_closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool awake_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace engram
