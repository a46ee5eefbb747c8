// SessionMetrics: what the session store counts, read when it is scraped.
//
// Thread-safe.
#pragma once

#include <prometheus/metric_family.h>

#include <cstddef>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/session_store.h"

namespace engram {

class SessionMetrics {
 public:
  // In the order of SessionStore::AddModel.
  void AddModel(const std::string& name);
  // `sessions` must outlive this.
  void Watch(const SessionStore* sessions, size_t memory_bytes);

  // Nothing before Watch.
  std::vector<prometheus::MetricFamily> Collect() const;

 private:
  mutable absl::Mutex mutex_;
  std::vector<std::string> models_ ABSL_GUARDED_BY(mutex_);
  const SessionStore* sessions_ ABSL_GUARDED_BY(mutex_) = nullptr;
  size_t memory_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace engram
