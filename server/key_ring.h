// KeyRing: the keys that are taken now, read again when their file changes, and
// the tenants that they belong to.
//
// Keys that are taken stay as they are until the file is right as a whole
// (server/watched_files.h); what is wrong with it is logged and counted. A key
// that is gone, or has expired, ends nothing that it began.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/keys.h"
#include "server/tenants.h"
#include "server/watched_files.h"

namespace engram {

class KeyRing {
 public:
  // `tenants` outlives it, and knows those of a file before its keys are taken.
  // INVALID_ARGUMENT: the file cannot be read; a key is a certificate alone and
  // no client is asked for any; KeySet::Parse.
  static absl::StatusOr<std::unique_ptr<KeyRing>> Load(const std::string& file,
                                                       bool asks_certificates,
                                                       Tenants* tenants);

  std::shared_ptr<const KeySet> current() const;
  // As those of WatchedFiles.
  int64_t failures() const { return files_.failures(); }
  void Refresh() { files_.Refresh(); }
  void Watch(absl::Duration interval) { files_.Watch(interval); }

 private:
  KeyRing(std::string file, bool asks_certificates, Tenants* tenants);

  absl::StatusOr<WatchedFiles::Texts> Read() const;
  absl::Status Use(const std::string& text);
  absl::Status CheckCertificates(const KeySet& keys) const;

  const std::string file_;
  const bool asks_certificates_;
  Tenants* const tenants_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const KeySet> current_ ABSL_GUARDED_BY(mutex_);
  WatchedFiles files_;
};

}  // namespace engram
