// RareLine: when to log what strangers can cause as often as the machine
// allows. Most of it is only counted.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/clock.h"

namespace engram {

class RareLine {
 public:
  // Between two lines that are logged.
  static constexpr absl::Duration kInterval = absl::Seconds(10);

  explicit RareLine(Clock* clock) : clock_(clock) {}

  // It happened once more. If it is to be logged, how many have not been since
  // the last that was.
  std::optional<int64_t> Note() {
    const absl::Time now = clock_->Now();
    absl::MutexLock lock(&mutex_);
    if (now - last_ < kInterval) {
      ++untold_;
      return std::nullopt;
    }
    last_ = now;
    const int64_t untold = untold_;
    untold_ = 0;
    return untold;
  }

 private:
  Clock* const clock_;
  absl::Mutex mutex_;
  absl::Time last_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int64_t untold_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace engram
