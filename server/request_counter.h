// RequestCounter: requests that ended, of one model or of none, by how.
//
// Thread-safe.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/registry.h>

#include <string>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/request.h"
#include "server/request_ends.h"

namespace engram {

class RequestCounter {
 public:
  // `registry` must outlive this. Ends of `known` exist from the start. An
  // empty `model`: requests of none.
  RequestCounter(prometheus::Registry* registry, const std::string& model,
                 const std::vector<RequestEnd>& known);

  void Count(const RequestSummary& request);

 private:
  prometheus::Counter* Find(const std::string& method,
                            const std::string& finish_reason,
                            absl::StatusCode code)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string model_;
  prometheus::Family<prometheus::Counter>& family_;

  absl::Mutex mutex_;
  absl::flat_hash_map<std::tuple<std::string, std::string, absl::StatusCode>,
                      prometheus::Counter*>
      by_end_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram
