// TlsIdentity: the server's certificate and key, and the authorities that
// certificates of its clients must come from; read again when the files change.
//
// What is served stays as it is until the files hold a whole that both ports
// can use (server/watched_files.h); what they cannot use is logged and counted.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/clock.h"
#include "server/watched_files.h"
#include "tools/tls/tls_files.h"

namespace engram {

class HttpCredentials;

// What is served since a certain change of the files.
struct TlsVersion {
  int64_t number = 0;  // from 1; each change has the next
  TlsFiles texts;
  absl::Time expiry;  // of the first of the certificates
  std::shared_ptr<const HttpCredentials> http;  // made of the texts
};

class TlsIdentity {
 public:
  // Errors are those of ReadTlsFiles, CheckTlsFiles and HttpCredentials::Make.
  // `clock` outlives it.
  static absl::StatusOr<std::unique_ptr<TlsIdentity>> Load(
      const TlsFiles& names, Clock* clock);

  // Whether clients must have a certificate.
  bool asks_clients() const { return !names_.authorities.empty(); }
  std::shared_ptr<const TlsVersion> current() const;
  // As those of WatchedFiles.
  int64_t failures() const { return files_.failures(); }
  void Refresh() { files_.Refresh(); }
  void Watch(absl::Duration interval) { files_.Watch(interval); }

 private:
  TlsIdentity(const TlsFiles& names, Clock* clock);

  absl::Status Use(const TlsFiles& texts);

  const TlsFiles names_;
  Clock* const clock_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const TlsVersion> current_ ABSL_GUARDED_BY(mutex_);
  WatchedFiles files_;
};

}  // namespace engram
