#include "kernels/cpu/thread_pool.h"

#include <pthread.h>

#include "hwy/cache_control.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/status.h"

namespace engram::cpu {
namespace {

// Some tens of microseconds: longer than the gaps between the operations of
// one step, shorter than a pause that anybody would pay electricity for.
constexpr int kSpins = 2000;

}  // namespace

ThreadPool::ThreadPool(int threads, NotStarted) : parts_(threads) {
  ENGRAM_CHECK(threads >= 1);
  for (Call& call : calls_) call.parts = std::vector<Part>(parts_);
}

// Delegates, so that what was started is joined if the next cannot be.
ThreadPool::ThreadPool(int threads) : ThreadPool(threads, NotStarted()) {
  threads_.reserve(threads - 1);
  for (int part = 1; part < threads; ++part) {
    threads_.emplace_back([this, part] { Serve(part); });
    // Not by itself: whoever looks once the pool is there finds the name.
    pthread_setname_np(threads_.back().native_handle(), kThreadName);
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_seq_cst);
  WakeSleepers();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::Share(int64_t items, int64_t work_ns,
                       absl::FunctionRef<void(int64_t)> body) {
  Call* const call = MayShare(work_ns) ? Take() : nullptr;
  if (call == nullptr) {
    for (int64_t item = 0; item < items; ++item) body(item);
    return;
  }
  call->body = &body;
  call->items = items;
  Open(*call);
  RunItems(*call, 0);
  Close(*call);
}

bool ThreadPool::MayShare(int64_t work_ns) {
  if (parts_ == 1) return false;
  const bool all_sleep =
      sleepers_.load(std::memory_order_relaxed) >= parts_ - 1;
  // Callers at once may overwrite each other's count, which is no exact one.
  const int64_t since_ns = since_woken_ns_.load(std::memory_order_relaxed);
  const bool wakes = all_sleep && since_ns + work_ns >= kWorthWakingNs;
  since_woken_ns_.store(wakes ? 0 : since_ns + work_ns,
                        std::memory_order_relaxed);
  return wakes || !all_sleep;
}

ThreadPool::Call* ThreadPool::Take() {
  for (Call& call : calls_) {
    if (!call.has_caller.load(std::memory_order_relaxed) &&
        !call.has_caller.exchange(true, std::memory_order_acquire)) {
      return &call;
    }
  }
  return nullptr;
}

// Sequentially consistent together with WaitForCall: either the sleeper sees
// the new state, or we see the sleeper.
void ThreadPool::Open(Call& call) {
  const uint64_t round = Round(call.state.load(std::memory_order_relaxed)) + 1;
  call.state.store((round << kRoundShift) | kOpen, std::memory_order_seq_cst);
  WakeSleepers();
}

void ThreadPool::Close(Call& call) {
  call.state.fetch_and(~kOpen, std::memory_order_relaxed);
  // What is left are the last items of others. Yielding matters where there
  // are more threads than cores.
  for (int spins = 0;
       (call.state.load(std::memory_order_acquire) & kCountMask) != 0;
       ++spins) {
    if (spins < kSpins) {
      hwy::Pause();
    } else {
      std::this_thread::yield();
    }
  }
  call.has_caller.store(false, std::memory_order_release);
}

void ThreadPool::WakeSleepers() {
  if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
  absl::MutexLock lock(&mutex_);
  wake_.SignalAll();
}

void ThreadPool::Serve(int part) {
  const ScopedFlushDenormals flush;
  Seen seen;
  for (;;) {
    const int index = WaitForCall(seen);
    if (index == kNoCall) return;
    Call& call = calls_[index];
    seen.rounds[index] = Round(call.state.load(std::memory_order_relaxed));
    seen.next = (index + 1) % kCallsMax;
    if (!Join(call, seen.rounds[index])) continue;
    RunItems(call, part);
    call.state.fetch_sub(1, std::memory_order_release);
  }
}

int ThreadPool::Find(const Seen& seen) const {
  for (unsigned i = 0; i < kCallsMax; ++i) {
    const unsigned index = (seen.next + i) % kCallsMax;
    const uint64_t state = calls_[index].state.load(std::memory_order_seq_cst);
    if ((state & kOpen) != 0 && Round(state) != seen.rounds[index]) {
      return static_cast<int>(index);
    }
  }
  return kNoCall;
}

// A thread that was woken looks around like one that never slept: the call that
// woke it is often over by then, and the next is near.
int ThreadPool::WaitForCall(const Seen& seen) {
  for (;;) {
    for (int spins = 0; spins < kSpins; ++spins) {
      if (stop_.load(std::memory_order_relaxed)) return kNoCall;
      const int index = Find(seen);
      if (index != kNoCall) return index;
      hwy::Pause();
    }
    absl::MutexLock lock(&mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    if (Find(seen) == kNoCall && !stop_.load(std::memory_order_seq_cst)) {
      wake_.Wait(&mutex_);
    }
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }
}

bool ThreadPool::Join(Call& call, uint64_t round) {
  uint64_t state = call.state.load(std::memory_order_relaxed);
  while ((state & kOpen) != 0 && Round(state) == round) {
    if (call.state.compare_exchange_weak(state, state + 1,
                                         std::memory_order_acquire)) {
      return true;
    }
  }
  return false;
}

void ThreadPool::RunItems(Call& call, int part) const {
  const uint64_t round = Round(call.state.load(std::memory_order_relaxed));
  for (int i = 0; i < parts_; ++i) {
    const int64_t begin = call.items * part / parts_;
    const int64_t count = call.items * (part + 1) / parts_ - begin;
    for (;;) {
      const int64_t item = TakeItem(call.parts[part], round, count);
      if (item < 0) break;
      (*call.body)(begin + item);
    }
    part = part + 1 < parts_ ? part + 1 : 0;
  }
}

int64_t ThreadPool::TakeItem(Part& part, uint64_t round, int64_t count) {
  uint64_t taken = part.taken.load(std::memory_order_relaxed);
  for (;;) {
    const uint64_t item = Round(taken) == round ? taken & kCountMask : 0;
    if (static_cast<int64_t>(item) >= count) return -1;
    if (part.taken.compare_exchange_weak(taken,
                                         (round << kRoundShift) | (item + 1),
                                         std::memory_order_relaxed)) {
      return static_cast<int64_t>(item);
    }
  }
}

}  // namespace engram::cpu
