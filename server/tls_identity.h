// TlsIdentity: the server's certificate and key, and the authorities that
// certificates of its clients must come from; read again when the files change.
//
// What is served stays as it is until the files hold a whole that both ports
// can use: one that is damaged, half written or expired changes nothing, is
// logged and is counted.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/clock.h"
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
  ~TlsIdentity();

  // Whether clients must have a certificate.
  bool asks_clients() const { return !names_.authorities.empty(); }
  std::shared_ptr<const TlsVersion> current() const;
  // Times that the files changed into what cannot be used.
  int64_t failures() const;

  // Reads the files once more. What cannot be used counts only if the last look
  // found the same: before, it may be half written.
  void Refresh();
  // Calls Refresh() as often as this, on a thread of its own.
  void Watch(absl::Duration interval);

 private:
  // What was found that cannot be used.
  struct Broken {
    TlsFiles texts;
    std::string why;
    bool told = false;
  };

  TlsIdentity(const TlsFiles& names, Clock* clock);

  // Of what the files hold, if it can be used; without its number.
  absl::StatusOr<TlsVersion> MakeVersion(const TlsFiles& texts) const;
  void NoteBroken(TlsFiles texts, std::string why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const TlsFiles names_;
  Clock* const clock_;

  mutable absl::Mutex mutex_;
  std::shared_ptr<const TlsVersion> current_ ABSL_GUARDED_BY(mutex_);
  std::optional<Broken> broken_ ABSL_GUARDED_BY(mutex_);
  int64_t failures_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace engram
