// KeyRing: the keys that are taken now, read again when their file changes, and
// the tenants that they belong to.
//
// Keys that are taken stay as they are until the file is right as a whole
// (server/reloaded.h); what is wrong with it is logged and counted. A key that
// is gone, or has expired, ends nothing that it began.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/keys.h"
#include "server/reloaded.h"
#include "server/tenants.h"

namespace engram {

class KeyRing {
 public:
  // `tenants` outlives it, and knows those of a file before its keys are taken.
  // INVALID_ARGUMENT: the file cannot be read; a key is a certificate alone and
  // no client is asked for any; KeySet::Parse.
  static absl::StatusOr<std::unique_ptr<KeyRing>> Load(const std::string& file,
                                                       bool asks_certificates,
                                                       Tenants* tenants);

  std::shared_ptr<const KeySet> current() const { return keys_.current(); }
  // As those of Reloaded.
  int64_t failures() const { return keys_.failures(); }
  void Refresh() { keys_.Refresh(); }
  void Watch(absl::Duration interval) { keys_.Watch(interval); }

 private:
  KeyRing(std::string file, bool asks_certificates, Tenants* tenants);

  absl::StatusOr<std::string> Read() const;
  absl::StatusOr<KeySet> Make(const std::string& text) const;

  const std::string file_;
  const bool asks_certificates_;
  Tenants* const tenants_;
  Reloaded<std::string, KeySet> keys_;
};

}  // namespace engram
