// TenantBudget: a ByteBudget that no tenant can take for itself where there are
// keys: each has its part by weight, among those who have some of it and one
// more like it who may come. Who has nothing of it may take what is left.
//
// Thread-safe; a Share may outlive its budget.
#pragma once

#include <cstddef>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "server/byte_budget.h"
#include "server/tenant.h"

namespace engram {

class TenantBudget {
 public:
  explicit TenantBudget(size_t limit) : limit_(limit), all_(limit) {}

  // Bytes that are taken until it goes.
  struct Share {
    ByteBudget::Share all;
    ByteBudget::Share own;
  };
  // What is there too little of.
  struct Shortage {
    size_t taken = 0;
    size_t limit = 0;
    bool of_tenant = false;  // of its part, and not of all
  };

  // Nothing if there is no room, and why. `tenant` may be nullptr.
  std::optional<Share> Take(const Tenant* tenant, size_t bytes,
                            Shortage* shortage) ABSL_LOCKS_EXCLUDED(mutex_);

  size_t limit() const { return limit_; }

 private:
  struct Part {
    double weight = 1;
    ByteBudget budget;
  };

  size_t PartLimit(double weight) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t limit_;
  absl::Mutex mutex_;
  ByteBudget all_ ABSL_GUARDED_BY(mutex_);
  // Of tenants by name that have come here, by their numbers.
  absl::flat_hash_map<int, Part> parts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram
