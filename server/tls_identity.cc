#include "server/tls_identity.h"

#include <utility>

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
    : names_(names), clock_(clock) {}

absl::StatusOr<std::unique_ptr<TlsIdentity>> TlsIdentity::Load(
    const TlsFiles& names, Clock* clock) {
  std::unique_ptr<TlsIdentity> identity(new TlsIdentity(names, clock));
  ENGRAM_ASSIGN_OR_RETURN(const TlsFiles texts, ReadTlsFiles(names));
  ENGRAM_ASSIGN_OR_RETURN(TlsVersion first, identity->MakeVersion(texts));
  first.number = 1;
  absl::MutexLock lock(&identity->mutex_);
  identity->current_ = std::make_shared<const TlsVersion>(std::move(first));
  return identity;
}

TlsIdentity::~TlsIdentity() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

std::shared_ptr<const TlsVersion> TlsIdentity::current() const {
  absl::MutexLock lock(&mutex_);
  return current_;
}

int64_t TlsIdentity::failures() const {
  absl::MutexLock lock(&mutex_);
  return failures_;
}

absl::StatusOr<TlsVersion> TlsIdentity::MakeVersion(
    const TlsFiles& texts) const {
  TlsVersion version;
  version.texts = texts;
  ENGRAM_ASSIGN_OR_RETURN(version.expiry,
                          CheckTlsFiles(names_, texts, clock_->Now()));
  // GnuTLS does not take all that OpenSSL takes.
  ENGRAM_ASSIGN_OR_RETURN(version.http, HttpCredentials::Make(texts));
  return version;
}

void TlsIdentity::Refresh() {
  // Files are read without the lock: handshakes ask for what is served.
  absl::StatusOr<TlsFiles> texts = ReadTlsFiles(names_);
  if (!texts.ok()) {
    absl::MutexLock lock(&mutex_);
    return NoteBroken({}, std::string(texts.status().message()));
  }
  if (*texts == current()->texts) {
    absl::MutexLock lock(&mutex_);
    broken_.reset();
    return;
  }
  absl::StatusOr<TlsVersion> next = MakeVersion(*texts);
  absl::MutexLock lock(&mutex_);
  if (!next.ok()) {
    return NoteBroken(*std::move(texts), std::string(next.status().message()));
  }
  broken_.reset();
  next->number = current_->number + 1;
  current_ = std::make_shared<const TlsVersion>(*std::move(next));
  Log("tls_reloaded", {{"certificate", names_.certificate},
                       {"expires", TimeText(current_->expiry)}});
}

void TlsIdentity::NoteBroken(TlsFiles texts, std::string why) {
  if (!broken_.has_value() || broken_->texts != texts || broken_->why != why) {
    broken_ = Broken{std::move(texts), std::move(why)};
    return;
  }
  if (std::exchange(broken_->told, true)) return;
  ++failures_;
  Log(LogLevel::kError, "tls_reload_failed",
      {{"message", broken_->why},
       {"served_until", TimeText(current_->expiry)}});
}

void TlsIdentity::Watch(absl::Duration interval) {
  thread_ = std::thread([this, interval] {
    while (true) {
      {
        absl::MutexLock lock(&mutex_);
        if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), interval)) {
          return;
        }
      }
      Refresh();
    }
  });
}

}  // namespace engram
