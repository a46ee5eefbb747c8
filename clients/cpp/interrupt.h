// Ctrl-C and SIGTERM: the first one cancels what is running so that it can end
// cleanly, the second one ends the program at once.
#pragma once

#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "clients/cpp/cancellation.h"

namespace engram::client {

inline constexpr int kExitInterrupted =
    130;  // As shells have it: 128 + SIGINT.

// Made once, first thing in main(): the signals are blocked in the thread that
// makes it and in all threads started later, and taken by a thread of this
// object. Thread-safe.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // What the next signal cancels; null: it ends the program. Returns what it
  // was before.
  Cancellation* SetTarget(Cancellation* target);

 private:
  void WaitForSignals();

  absl::Mutex mutex_;
  Cancellation* target_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// Makes `target` what a signal cancels, for as long as this object lives; then
// it is again what it was before.
class InterruptScope {
 public:
  InterruptScope(Interrupt* interrupt, Cancellation* target)
      : interrupt_(interrupt), before_(interrupt->SetTarget(target)) {}
  ~InterruptScope() { interrupt_->SetTarget(before_); }
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  Interrupt* const interrupt_;
  Cancellation* const before_;
};

}  // namespace engram::client
