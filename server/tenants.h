// Tenants: all that there are or were since the process began, by name. One
// stays the same, with its number, however often the file of keys is read; one
// that is gone from it stays too, for what is still kept of it.
//
// Thread-safe.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "server/tenant.h"

namespace engram {

class Tenants {
 public:
  // There is the one without a name.
  Tenants();

  // The one without a name: number 0.
  const TenantHandle& nameless() const { return nameless_; }
  // nullptr if there is none of that name.
  TenantHandle Find(absl::string_view name) const;
  // By number.
  std::vector<TenantHandle> all() const;

  // Those of the file of keys are these now; what is new is added.
  void Update(const std::map<std::string, TenantLimits>& limits);

 private:
  const TenantHandle nameless_;
  mutable absl::Mutex mutex_;
  std::vector<TenantHandle> all_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, TenantHandle> by_name_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram
