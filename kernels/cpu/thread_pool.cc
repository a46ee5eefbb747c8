#include "kernels/cpu/thread_pool.h"

#include "hwy/cache_control.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/status.h"

namespace engram::cpu {
namespace {

// Some tens of microseconds: longer than the gaps between the operations of
// one step, shorter than a pause that anybody would pay electricity for.
constexpr int kSpins = 2000;

}  // namespace

// Delegates, so that what was started is joined if the next cannot be.
ThreadPool::ThreadPool(int threads) : ThreadPool() {
  ENGRAM_CHECK(threads >= 1);
  threads_.reserve(threads - 1);
  for (int i = 1; i < threads; ++i) {
    threads_.emplace_back([this] { Serve(); });
  }
}

ThreadPool::~ThreadPool() {
  Publish(kStop);
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::ParallelFor(int64_t items,
                             absl::FunctionRef<void(int64_t)> body) {
  if (threads_.empty() || items <= 1) {
    for (int64_t item = 0; item < items; ++item) body(item);
    return;
  }
  body_ = &body;
  items_ = items;
  next_item_.store(0, std::memory_order_relaxed);
  const uint64_t round = Round(state_.load(std::memory_order_relaxed)) + 1;
  Publish((round << kRoundShift) | kOpen);
  TakeItems();
  state_.fetch_and(~kOpen, std::memory_order_relaxed);
  // What is left are the last items of others. Yielding matters where there
  // are more threads than cores.
  for (int spins = 0;
       (state_.load(std::memory_order_acquire) & kJoinedMask) != 0; ++spins) {
    if (spins < kSpins) {
      hwy::Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

// Sequentially consistent together with WaitForRound: either the sleeper sees
// the new state, or we see the sleeper.
void ThreadPool::Publish(uint64_t state) {
  state_.store(state, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
  absl::MutexLock lock(&mutex_);
  wake_.SignalAll();
}

void ThreadPool::Serve() {
  const ScopedFlushDenormals flush;
  uint64_t round = 0;
  for (;;) {
    const uint64_t state = WaitForRound(round);
    if ((state & kStop) != 0) return;
    round = Round(state);
    if (!Join(round)) continue;
    TakeItems();
    state_.fetch_sub(1, std::memory_order_release);
  }
}

uint64_t ThreadPool::WaitForRound(uint64_t last_round) {
  for (int spins = 0; spins < kSpins; ++spins) {
    const uint64_t state = state_.load(std::memory_order_acquire);
    if (Ready(state, last_round)) return state;
    hwy::Pause();
  }
  absl::MutexLock lock(&mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  uint64_t state = state_.load(std::memory_order_seq_cst);
  while (!Ready(state, last_round)) {
    wake_.Wait(&mutex_);
    state = state_.load(std::memory_order_seq_cst);
  }
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
  return state;
}

bool ThreadPool::Join(uint64_t round) {
  uint64_t state = state_.load(std::memory_order_relaxed);
  while ((state & kOpen) != 0 && Round(state) == round) {
    if (state_.compare_exchange_weak(state, state + 1,
                                     std::memory_order_acquire)) {
      return true;
    }
  }
  return false;
}

void ThreadPool::TakeItems() {
  for (;;) {
    const int64_t item = next_item_.fetch_add(1, std::memory_order_relaxed);
    if (item >= items_) return;
    (*body_)(item);
  }
}

}  // namespace engram::cpu
