// TenantMetrics: what each tenant asks for and has, by a label of few values:
// the first tenants there were by name, all others together as "other".
//
// Thread-safe.
#pragma once

#include <prometheus/metric_family.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/request.h"
#include "server/session_store.h"
#include "server/tenants.h"

namespace engram {

class TenantMetrics {
 public:
  // There are keys: from now on there are these families, which name `labels`
  // tenants at most. Both pointers must outlive this.
  void Watch(const Tenants* tenants, const SessionStore* sessions, int labels);

  // A request that ended. Nothing before Watch.
  void Count(const RequestSummary& request);

  // Nothing before Watch.
  std::vector<prometheus::MetricFamily> Collect() const;

 private:
  // Of all tenants under one label.
  struct Counts {
    std::map<absl::StatusCode, int64_t> requests;
    int64_t prompt_tokens = 0;
    int64_t generated_tokens = 0;
  };

  mutable absl::Mutex mutex_;
  const Tenants* tenants_ ABSL_GUARDED_BY(mutex_) = nullptr;
  const SessionStore* sessions_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int labels_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Counts> counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram
