// EngineInbox: the bounded queue of requests that wait for their engine, and of
// tasks that others want done on its thread.
//
// A place in the queue is reserved first and filled later: whoever has one
// cannot be refused any more, so that a turn is begun only for a request that
// will run.
//
// Where there are keys no tenant can fill it for the others: each has its part
// by weight, among those who have something here and one more like it who may
// come. How long it waits is told from what it has in the queue itself, and the
// turns of the others between.
//
// Thread-safe.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/clock.h"
#include "server/device_choice.h"
#include "server/queue_time.h"
#include "server/sequence.h"
#include "server/slot_shares.h"

namespace engram {

// A prompt that is fed, or is to be, before a newcomer's.
struct PromptAhead {
  int priority = 0;
  int64_t tokens = 0;  // left of it
  int tenant = 0;      // Tenant::number
  double weight = 1;   // the tenant's
};

PromptAhead PromptAheadOf(const Request& request);

class EngineInbox {
 public:
  // At most `max_queue` requests and as many tasks; a request waits for at most
  // `max_queue_time`. `clock` must outlive this.
  EngineInbox(int max_queue, absl::Duration max_queue_time, Clock* clock);

  // One in the queue, given back unless it is filled. Must not outlive the
  // inbox.
  class Place {
   public:
    Place(Place&& other) noexcept
        : inbox_(std::exchange(other.inbox_, nullptr)),
          reserved_(other.reserved_) {}
    Place& operator=(Place&&) = delete;
    ~Place() {
      if (inbox_ != nullptr) inbox_->GiveBack(reserved_);
    }

   private:
    friend class EngineInbox;
    using Reserved = std::list<PromptAhead>::iterator;
    Place(EngineInbox* inbox, Reserved reserved)
        : inbox_(inbox), reserved_(reserved) {}

    EngineInbox* inbox_;
    Reserved reserved_;
  };

  // UNAVAILABLE: the queue, or the tenant's part of it, is full or would take
  // too long (RetryAfter says when to come again), or it is closed.
  absl::StatusOr<Place> Reserve(const Request& request);
  void Enqueue(Place place, std::unique_ptr<Sequence> sequence);
  // When it may be of use to come again with such a request.
  absl::Duration RetryTime(const Request& request) const;

  // What a newcomer would find.
  DeviceRoom Room() const;

  // `task` runs on the engine thread, between steps. UNAVAILABLE if as many
  // tasks wait as the queue may hold, or if no engine will run it any more.
  absl::Status Post(std::function<void()> task);
  // The same for what a request wants that has been admitted: however many
  // tasks wait.
  absl::Status PostForRequest(std::function<void()> task);

  // From now on Reserve answers UNAVAILABLE with this reason.
  void Close(std::string reason);
  bool closed() const;
  int waiting() const;

  // Makes WaitForWork return.
  void Wake();

  // --- Engine.
  // What runs, after each step: for how long newcomers would wait.
  void SetLoad(QueueLoad load, std::vector<PromptAhead> prompts);
  // The one that TakeNext would take now: none whose state is still on its way
  // here (server/state_fetch.h).
  std::optional<WaitingRequest> Next(const SlotShares& shares = {}) const;
  // The first as SlotShares::GoesBefore has it, of those of a tenant and a
  // priority the one that came first; nullptr if none waits.
  std::unique_ptr<Sequence> TakeNext(const SlotShares& shares = {});
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
  // The same, and those whose places are reserved now: waits until they have
  // come. REQUIRES: closed.
  std::vector<std::unique_ptr<Sequence>> TakeLast();
  // Nobody waits, nor has a place, nor was taken and may wait on.
  bool empty() const;
  int tasks() const;  // that wait
  std::vector<std::function<void()>> TakeTasks();
  // No task is taken from now on.
  void CloseTasks();
  // Returns when something was queued or Wake was called since it last
  // returned, or after `timeout`.
  void WaitForWork(absl::Duration timeout);

 private:
  using Queue = std::list<std::unique_ptr<Sequence>>;

  void GiveBack(Place::Reserved reserved) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status AddTask(std::function<void()> task)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckRoom(const Request& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // How many places the request's tenant has here, and how many it may have.
  struct Places {
    int taken = 0;
    int most = 0;
  };
  Places PlacesOf(const Request& request) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration ExpectedWait(const Request& request, absl::Time now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Queue::const_iterator FindNext(const SlotShares& shares) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes those of the queue that `leaves` is true of.
  std::vector<std::unique_ptr<Sequence>> TakeWhere(
      absl::FunctionRef<bool(const Sequence&)> leaves)
      ABSL_LOCKS_EXCLUDED(mutex_);

  const int max_queue_;
  const absl::Duration max_queue_time_;
  Clock* const clock_;

  mutable absl::Mutex mutex_;
  Queue queue_ ABSL_GUARDED_BY(mutex_);
  // What becomes of the one that TakeNext took is not told yet.
  bool one_is_taken_ ABSL_GUARDED_BY(mutex_) = false;
  // Of those that have a place and are not in the queue yet.
  std::list<PromptAhead> reserved_ ABSL_GUARDED_BY(mutex_);
  QueueTime queue_time_ ABSL_GUARDED_BY(mutex_);
  std::vector<PromptAhead> prompts_ ABSL_GUARDED_BY(mutex_);  // that run
  int started_ ABSL_GUARDED_BY(mutex_) = 0;  // since the load was told
  std::vector<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  std::string closed_ ABSL_GUARDED_BY(mutex_);  // the reason, if it is
  bool tasks_closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool awake_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace engram
