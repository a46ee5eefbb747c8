// KeyRing: the keys that are taken now, and the tenants that they belong to.
//
// Thread-safe.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/keys.h"
#include "server/tenants.h"

namespace engram {

class KeyRing {
 public:
  // `tenants` outlives it. INVALID_ARGUMENT: the file cannot be read;
  // KeySet::Parse.
  static absl::StatusOr<std::unique_ptr<KeyRing>> Load(const std::string& file,
                                                       Tenants* tenants);

  std::shared_ptr<const KeySet> current() const;

 private:
  explicit KeyRing(std::string file) : file_(std::move(file)) {}

  const std::string file_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const KeySet> current_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram
