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
#include <string>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/clock.h"
#include "server/model_capacity.h"
#include "server/sequence.h"

namespace engram {

struct AdmissionLimits {
  int max_queue = 1024;
  // Of those that wait or run: SequenceBytes.
  size_t request_bytes = size_t{512} << 20;
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
  // UNAVAILABLE: the queue is full, or the server is draining or unhealthy.
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
  // Of highest priority, then the earliest; nullptr if none waits.
  std::unique_ptr<Sequence> TakeNext();
  // The one that was just taken waits on, before the others of its priority.
  void PutBack(std::unique_ptr<Sequence> sequence);
  // Those that are cancelled or past their deadline at `now`.
  std::vector<std::unique_ptr<Sequence>> TakeEnded(absl::Time now);
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
  absl::Status CheckQueue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const AdmissionLimits limits_;
  const AdmissionModel model_;
  SessionStore* const sessions_;
  Clock* const clock_;
  ByteBudget memory_;

  mutable absl::Mutex mutex_;
  std::list<std::unique_ptr<Sequence>> queue_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  std::string closed_ ABSL_GUARDED_BY(mutex_);  // the reason, if it is
  bool tasks_closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool awake_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace engram
