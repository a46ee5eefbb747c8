// Threads inside one operation: the only ones outside server/.
//
// An operation is cut into items that don't depend on each other; the caller
// and the pool's threads take them one by one. Who computes an item has no
// influence on its result, but on its speed: each thread begins with its own
// part of the items, so that states and weights stay in the cache of the same
// core from step to step, and then takes what is left of the others' parts.
//
// One pool serves the back ends of all models, whose operations may be called
// at once. Each caller computes on its own thread at any rate, and never waits
// for the operation of another: the pool's threads help where they find work,
// one operation after the other.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"

namespace engram::cpu {

// The threads start with the pool and are joined by its destructor; a call
// allocates nothing. Thread-safe.
class ThreadPool {
 public:
  // What the system calls its threads; of at most 15 characters.
  static constexpr char kThreadName[] = "engram-kernel";

  // `threads` counts a caller: 1 starts none. REQUIRES: threads >= 1. Throws
  // std::system_error if the machine has no more threads.
  explicit ThreadPool(int threads);
  ~ThreadPool();

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return parts_; }

  // Calls body(item) once for every item in [0, items), from several threads
  // and in no fixed order; returns when all calls have returned. The pool's
  // threads flush denormals; the caller looks after its own mode. Must not be
  // called by `body`.
  //
  // `work_ns`: about how long all items take one thread, in nanoseconds,
  // counted from shapes. Work too small to gain by threads runs on the caller.
  template <class Body>
  void ParallelFor(int64_t items, int64_t work_ns, const Body& body) {
    if (items <= 1 || work_ns < kWorthSharingNs) {
      for (int64_t item = 0; item < items; ++item) body(item);
    } else {
      Share(items, work_ns, body);
    }
  }

  // Below this, handing out the items and moving what they read and write from
  // one core's cache to another's costs about what it saves.
  static constexpr int64_t kWorthSharingNs = 12'000;
  // Waking threads that sleep costs the caller some microseconds, and they come
  // late. It is done when so much that is worth sharing has come since they
  // were woken last, with them or without: at once in the next step of a model
  // whose steps are that long, now and then for one whose steps are shorter, so
  // that the price is a few per cent at most.
  static constexpr int64_t kWorthWakingNs = 100'000;

 private:
  // Calls at once that the threads can help with; one more is run by its caller
  // alone.
  static constexpr int kCallsMax = 8;
  static constexpr int kNoCall = -1;

  // The items of one thread: which round they are of (upper half) and how many
  // of them have been taken. What is left of an earlier round stands for none.
  struct Part {
    alignas(64) std::atomic<uint64_t> taken{0};
  };

  // Where a caller puts its call. Each call there is a round: `state` says
  // which round it is (upper half), whether threads may still join, and how
  // many have joined and not yet left. A thread that wakes too late to join
  // simply misses the round: the caller waits for work that was begun, never
  // for a thread to wake up.
  struct Call {
    // The threads watch this line, so only what they must learn is written to.
    alignas(64) std::atomic<uint64_t> state{0};
    // Written by the caller before a round opens, read by those who joined it.
    const absl::FunctionRef<void(int64_t)>* body = nullptr;
    int64_t items = 0;
    alignas(64) std::atomic<bool> has_caller{false};
    std::vector<Part> parts;  // the caller's, then those of the threads
  };
  static constexpr int kRoundShift = 32;
  static constexpr uint64_t kOpen = uint64_t{1} << 31;
  static constexpr uint64_t kCountMask = kOpen - 1;
  static uint64_t Round(uint64_t state) { return state >> kRoundShift; }

  // What a thread knows of the calls: for each the last round that it has
  // looked into, and which one is next to be looked at, so that all get help.
  struct Seen {
    std::array<uint64_t, kCallsMax> rounds{};
    unsigned next = 0;
  };

  struct NotStarted {};
  ThreadPool(int threads, NotStarted);

  // ParallelFor for what is worth sharing.
  void Share(int64_t items, int64_t work_ns,
             absl::FunctionRef<void(int64_t)> body);
  // Whether work is to be offered to the threads, and counts it.
  bool MayShare(int64_t work_ns);
  // A place that is now the caller's, or nullptr.
  Call* Take();
  void Open(Call& call);
  static void Close(Call& call);

  void Serve(int part);
  // An open call that the thread has not looked into, or kNoCall.
  int Find(const Seen& seen) const;
  // Waits for one. kNoCall: the pool ends.
  int WaitForCall(const Seen& seen);
  static bool Join(Call& call, uint64_t round);
  // Runs items until none is left, those of `part` first.
  void RunItems(Call& call, int part) const;
  // The next of the `count` items of a part, or -1.
  static int64_t TakeItem(Part& part, uint64_t round, int64_t count);
  void WakeSleepers();

  const int parts_;
  std::array<Call, kCallsMax> calls_;
  std::atomic<bool> stop_{false};

  // Only for sleeping; all data travels by the calls' states.
  absl::Mutex mutex_;
  absl::CondVar wake_;
  std::atomic<int> sleepers_{0};
  // Work worth sharing that came since the threads were woken.
  std::atomic<int64_t> since_woken_ns_{0};

  std::vector<std::thread> threads_;
};

}  // namespace engram::cpu
