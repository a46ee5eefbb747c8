// StopSignal: tells those who hold a call open without anything to do that the
// server is stopping.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace engram {

class StopSignal {
 public:
  // `react` is called once: by Stop, or at once if that was before. It may come
  // while Unsubscribe runs, so that it must not need its owner to be there.
  // Returns what Unsubscribe takes.
  int64_t Subscribe(std::function<void()> react) {
    {
      absl::MutexLock lock(&mutex_);
      if (!stopped_) {
        reactions_.emplace(++last_, std::move(react));
        return last_;
      }
    }
    react();
    return 0;
  }

  void Unsubscribe(int64_t subscription) {
    absl::MutexLock lock(&mutex_);
    reactions_.erase(subscription);
  }

  void Stop() {
    absl::flat_hash_map<int64_t, std::function<void()>> reactions;
    {
      absl::MutexLock lock(&mutex_);
      stopped_ = true;
      reactions.swap(reactions_);
    }
    for (const auto& [subscription, react] : reactions) react();
  }

 private:
  absl::Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t last_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<int64_t, std::function<void()>> reactions_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram
