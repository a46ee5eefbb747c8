#include "server/tls_identity.h"

#include <string>

#include "kernels/status.h"
#include "server/http_credentials.h"
#include "server/log.h"
#include "server/time_text.h"

namespace engram {

TlsIdentity::TlsIdentity(const TlsFiles& names, Clock* clock)
    : names_(names),
      clock_(clock),
      files_({
          .read = [this]() -> absl::StatusOr<WatchedFiles::Texts> {
            ENGRAM_ASSIGN_OR_RETURN(TlsFiles texts, ReadTlsFiles(names_));
            return WatchedFiles::Texts{texts.certificate, texts.key,
                                       texts.authorities};
          },
          .use =
              [this](const WatchedFiles::Texts& texts) {
                return Use({texts[0], texts[1], texts[2]});
              },
          .on_failure =
              [this](const std::string& why) {
                Log(LogLevel::kError, "tls_reload_failed",
                    {{"message", why},
                     {"served_until", TimeText(current()->expiry)}});
              },
      }) {}

absl::StatusOr<std::unique_ptr<TlsIdentity>> TlsIdentity::Load(
    const TlsFiles& names, Clock* clock) {
  std::unique_ptr<TlsIdentity> identity(new TlsIdentity(names, clock));
  ENGRAM_RETURN_IF_ERROR(identity->files_.Load());
  return identity;
}

std::shared_ptr<const TlsVersion> TlsIdentity::current() const {
  absl::MutexLock lock(&mutex_);
  return current_;
}

absl::Status TlsIdentity::Use(const TlsFiles& texts) {
  TlsVersion version;
  version.texts = texts;
  ENGRAM_ASSIGN_OR_RETURN(version.expiry,
                          CheckTlsFiles(names_, texts, clock_->Now()));
  // GnuTLS does not take all that OpenSSL takes.
  ENGRAM_ASSIGN_OR_RETURN(version.http, HttpCredentials::Make(texts));
  const auto last = current();
  version.number = last == nullptr ? 1 : last->number + 1;
  {
    absl::MutexLock lock(&mutex_);
    current_ = std::make_shared<const TlsVersion>(version);
  }
  if (last == nullptr) return absl::OkStatus();
  Log("tls_reloaded", {{"certificate", names_.certificate},
                       {"expires", TimeText(version.expiry)}});
  return absl::OkStatus();
}

}  // namespace engram
