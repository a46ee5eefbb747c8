// FakeClock: a clock that only a test moves.
//
// Thread-safe.
#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/clock.h"

namespace engram {

class FakeClock final : public Clock {
 public:
  absl::Time Now() override {
    absl::MutexLock lock(&mutex_);
    now_ += at_each_look_;
    return now_;
  }
  void Set(absl::Time now) {
    absl::MutexLock lock(&mutex_);
    now_ = now;
  }
  void Advance(absl::Duration duration) {
    absl::MutexLock lock(&mutex_);
    now_ += duration;
  }
  // From now on time passes by itself, so much between two looks.
  void AdvanceAtEachLook(absl::Duration duration) {
    absl::MutexLock lock(&mutex_);
    at_each_look_ = duration;
  }

 private:
  absl::Mutex mutex_;
  absl::Time now_ ABSL_GUARDED_BY(mutex_) = absl::FromUnixSeconds(1700000000);
  absl::Duration at_each_look_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram
