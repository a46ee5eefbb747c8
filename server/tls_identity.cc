#include "server/tls_identity.h"

#include <string>

#include "kernels/status.h"
#include "server/http_credentials.h"
#include "server/log.h"

namespace engram {
namespace {

std::string TimeText(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone());
}

}  // namespace

TlsIdentity::TlsIdentity(const TlsFiles& names, Clock* clock)
    : names_(names),
      clock_(clock),
      versions_({.read = [this] { return ReadTlsFiles(names_); },
                 .make =
                     [this](const TlsFiles& texts,
                            const std::shared_ptr<const TlsVersion>& last) {
                       return MakeVersion(texts, last);
                     },
                 .on_change =
                     [this](const TlsVersion& now) {
                       Log("tls_reloaded", {{"certificate", names_.certificate},
                                            {"expires", TimeText(now.expiry)}});
                     },
                 .on_failure =
                     [](const std::string& why, const TlsVersion& now) {
                       Log(LogLevel::kError, "tls_reload_failed",
                           {{"message", why},
                            {"served_until", TimeText(now.expiry)}});
                     }}) {}

absl::StatusOr<std::unique_ptr<TlsIdentity>> TlsIdentity::Load(
    const TlsFiles& names, Clock* clock) {
  std::unique_ptr<TlsIdentity> identity(new TlsIdentity(names, clock));
  ENGRAM_RETURN_IF_ERROR(identity->versions_.Load());
  return identity;
}

absl::StatusOr<TlsVersion> TlsIdentity::MakeVersion(
    const TlsFiles& texts,
    const std::shared_ptr<const TlsVersion>& last) const {
  TlsVersion version;
  version.number = last == nullptr ? 1 : last->number + 1;
  version.texts = texts;
  ENGRAM_ASSIGN_OR_RETURN(version.expiry,
                          CheckTlsFiles(names_, texts, clock_->Now()));
  // GnuTLS does not take all that OpenSSL takes.
  ENGRAM_ASSIGN_OR_RETURN(version.http, HttpCredentials::Make(texts));
  return version;
}

}  // namespace engram
