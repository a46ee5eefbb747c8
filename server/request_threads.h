// RequestThreads: where requests are read whose size makes that long: messages
// decoded, texts tokenised, ids checked. gRPC has few threads: one that
// computes keeps every other call waiting, health checks included.
//
// Fair by client: those who wait take turns, whatever each of them has queued,
// and none has more than half of the threads, of the queue and of its memory.
// Work whose caller is gone is dropped where it waits, and told to end where it
// runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace engram {

struct RequestThreadsLimits {
  int threads = 2;
  size_t max_queue = 1024;               // pieces of work that wait
  size_t max_bytes = size_t{256} << 20;  // of the messages that wait
};

// Thread-safe.
class RequestThreads {
 public:
  // Called once, with OK when its turn has come, else with why it never will.
  using Work = std::function<void(const absl::Status& status)>;

  // Throws std::system_error if the machine has no more threads.
  explicit RequestThreads(const RequestThreadsLimits& limits);
  // Ends what is queued, and waits for what runs.
  ~RequestThreads();

  // What takes some milliseconds at most; most requests are shorter.
  static constexpr size_t kShortBytes = 16 << 10;

  // Calls `work` at once, on the caller's thread, if it is about few bytes;
  // else later, on one of ours. With UNAVAILABLE, at once, if the queue is full
  // or closed. Returns what Withdraw takes, or 0 if nothing was queued.
  uint64_t Run(const std::string& client, size_t bytes, Work work);

  // If the work still waits, it is called now, on this thread, with `reason`.
  void Withdraw(uint64_t ticket, const absl::Status& reason);

  // From now on work on long requests is called with UNAVAILABLE and `reason`,
  // what waits included. What runs sees it by closed().
  void Close(const std::string& reason);
  // OK, or what Close made of it.
  absl::Status closed() const;

  int waiting() const;

 private:
  struct NotStarted {};
  RequestThreads(const RequestThreadsLimits& limits, NotStarted)
      : limits_(limits) {}

  struct Entry {
    uint64_t ticket = 0;
    size_t bytes = 0;
    Work work;
  };
  // What a client has here.
  struct Client {
    std::deque<Entry> waiting;
    size_t waiting_bytes = 0;
    size_t running = 0;
  };

  absl::Status CheckRoom(const Client& client, size_t bytes) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The place in turns_ of who is next, or turns_.size().
  size_t NextTurn() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // After every change of what follows.
  void UpdateHasWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    has_work_ = is_ending_ || NextTurn() < turns_.size();
  }
  // Of the client that is next; it goes to the end of the turns.
  Entry TakeNext(std::string* client) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ForgetIfIdle(const std::string& client)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunQueued();

  const RequestThreadsLimits limits_;

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, Client> clients_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::string> turns_ ABSL_GUARDED_BY(mutex_);  // clients that wait
  absl::flat_hash_map<uint64_t, std::string> client_of_ticket_
      ABSL_GUARDED_BY(mutex_);
  size_t waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t last_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
  bool is_ending_ ABSL_GUARDED_BY(mutex_) = false;
  // What a thread waits for: somebody whose turn it is, or the end.
  bool has_work_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

// One piece of a call's work, and its end when the caller goes away.
// Thread-safe.
class RequestWork {
 public:
  // `threads` must outlive this.
  explicit RequestWork(RequestThreads* threads) : threads_(threads) {}

  // Once. As RequestThreads::Run. Whoever calls it keeps this until it returns,
  // since `work` may be over by then.
  void Start(const std::string& client, size_t bytes,
             RequestThreads::Work work);

  // The first reason stays.
  void Cancel(const absl::Status& reason);

  // What long work asks now and then: OK, or why it shall end.
  absl::Status MayGoOn() const;

 private:
  RequestThreads* const threads_;
  mutable absl::Mutex mutex_;
  uint64_t ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status cancelled_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram
