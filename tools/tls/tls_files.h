// Certificates and keys as files in PEM, checked before anything is made of
// them: what is wrong is told by the name of the file.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace engram {

// Names of files, or what they hold. Empty: there is none.
struct TlsFiles {
  std::string certificate;  // and those that lead to its authority
  std::string key;          // of the certificate, without a passphrase
  std::string authorities;  // whose certificates of others are believed

  bool operator==(const TlsFiles&) const = default;
};

// What the files of these names hold. INVALID_ARGUMENT names one that cannot be
// read, and says why.
absl::StatusOr<TlsFiles> ReadTlsFiles(const TlsFiles& names);

// Whether `texts`, which those files hold, can be used at `now`. Returns when
// the first of the certificates that are shown to others ends, and
// InfiniteFuture if there is none. INVALID_ARGUMENT names the file and says
// what is wrong: it has no certificate or no key in PEM, the key has a
// passphrase or belongs to another certificate, TLS takes none so weak, a
// certificate has expired or is not valid yet. Of the authorities one that is
// valid is enough. Both of certificate and key are given, or neither.
absl::StatusOr<absl::Time> CheckTlsFiles(const TlsFiles& names,
                                         const TlsFiles& texts, absl::Time now);

}  // namespace engram
