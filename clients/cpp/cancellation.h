// A request to stop, given by one thread and seen by others.
#pragma once

#include <cstdint>
#include <functional>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace engram::client {

// Thread-safe. Outlives the calls that it is given to.
class Cancellation {
 public:
  Cancellation() = default;
  Cancellation(const Cancellation&) = delete;
  Cancellation& operator=(const Cancellation&) = delete;

  // Runs what was registered, once. Later calls do nothing.
  void Cancel();
  bool cancelled() const;

  // Has `stop` run by Cancel(), or now if that has been called already. `stop`
  // runs under a lock and must not come back to this object. Returns what
  // Unregister() takes; after that, `stop` runs no more.
  int64_t Register(std::function<void()> stop);
  void Unregister(int64_t registration);

 private:
  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t next_registration_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<int64_t, std::function<void()>> stops_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram::client
