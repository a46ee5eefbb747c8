// Threads inside one operation: the only ones outside server/.
//
// An operation is cut into items that don't depend on each other; the caller
// and the pool's threads take them one by one. Who computes an item has no
// influence on its result.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"

namespace engram::cpu {

// Owned by the CPU back end. The threads start with the pool and are joined by
// its destructor; a call allocates nothing. One caller at a time.
class ThreadPool {
 public:
  // `threads` counts the caller: 1 starts none. REQUIRES: threads >= 1. Throws
  // std::system_error if the machine has no more threads.
  explicit ThreadPool(int threads);
  ~ThreadPool();

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls body(item) once for every item in [0, items), from several threads
  // and in no fixed order; returns when all calls have returned. The pool's
  // threads flush denormals; the caller looks after its own mode.
  void ParallelFor(int64_t items, absl::FunctionRef<void(int64_t)> body);

 private:
  // A call is a round. `state_` says which round it is (upper half), whether
  // threads may still join it, and how many have joined and not yet left. A
  // thread that wakes too late to join simply misses the round: the caller
  // waits for work that was begun, never for a thread to wake up.
  static constexpr uint64_t kStop = uint64_t{1} << 31;
  static constexpr uint64_t kOpen = uint64_t{1} << 30;
  static constexpr uint64_t kJoinedMask = kOpen - 1;
  static constexpr int kRoundShift = 32;

  static uint64_t Round(uint64_t state) { return state >> kRoundShift; }
  static bool Ready(uint64_t state, uint64_t last_round) {
    return (state & kStop) != 0 ||
           ((state & kOpen) != 0 && Round(state) != last_round);
  }

  ThreadPool() = default;  // no threads yet

  void Serve();
  uint64_t WaitForRound(uint64_t last_round);
  bool Join(uint64_t round);
  void TakeItems();
  void Publish(uint64_t state);

  std::atomic<uint64_t> state_{0};
  // Written by the caller before a round opens, read by those who joined it.
  const absl::FunctionRef<void(int64_t)>* body_ = nullptr;
  int64_t items_ = 0;
  // A line of its own: every taken item writes it.
  alignas(64) std::atomic<int64_t> next_item_{0};

  // Only for sleeping; all data travels by `state_`.
  absl::Mutex mutex_;
  absl::CondVar wake_;
  std::atomic<int> sleepers_{0};

  std::vector<std::thread> threads_;
};

}  // namespace engram::cpu
