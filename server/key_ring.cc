#include "server/key_ring.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "model/strict_json.h"
#include "server/log.h"

namespace engram {
namespace {

// Some hundred thousand keys.
constexpr size_t kFileBytesMax = 64 << 20;

int64_t CountOf(const KeySet& keys) {
  return static_cast<int64_t>(keys.keys().size());
}

}  // namespace

KeyRing::KeyRing(std::string file, bool asks_certificates, Tenants* tenants)
    : file_(std::move(file)),
      asks_certificates_(asks_certificates),
      tenants_(tenants),
      files_({
          .read = [this] { return Read(); },
          .use =
              [this](const WatchedFiles::Texts& texts) {
                return Use(texts.front());
              },
          .on_failure =
              [this](const std::string& why) {
                Log(LogLevel::kError, "keys_reload_failed",
                    {{"message", why}, {"keys", CountOf(*current())}});
              },
      }) {}

absl::StatusOr<std::unique_ptr<KeyRing>> KeyRing::Load(const std::string& file,
                                                       bool asks_certificates,
                                                       Tenants* tenants) {
  std::unique_ptr<KeyRing> ring(new KeyRing(file, asks_certificates, tenants));
  ENGRAM_RETURN_IF_ERROR(ring->files_.Load());
  return ring;
}

std::shared_ptr<const KeySet> KeyRing::current() const {
  absl::MutexLock lock(&mutex_);
  return current_;
}

absl::StatusOr<WatchedFiles::Texts> KeyRing::Read() const {
  absl::StatusOr<std::string> text = ReadSmallFile(file_, kFileBytesMax);
  if (text.ok()) return WatchedFiles::Texts{*std::move(text)};
  return absl::InvalidArgumentError(
      absl::StrCat("--keys cannot be read: ", text.status().message()));
}

absl::Status KeyRing::Use(const std::string& text) {
  ENGRAM_ASSIGN_OR_RETURN(KeySet keys, KeySet::Parse(text, file_));
  ENGRAM_RETURN_IF_ERROR(CheckCertificates(keys));
  // Before the keys: whoever finds one finds its tenant.
  tenants_->Update(keys.tenants());
  auto next = std::make_shared<const KeySet>(std::move(keys));
  const bool first = current() == nullptr;
  if (!first) Log("keys_reloaded", {{"file", file_}, {"keys", CountOf(*next)}});
  absl::MutexLock lock(&mutex_);
  current_ = std::move(next);
  return absl::OkStatus();
}

absl::Status KeyRing::CheckCertificates(const KeySet& keys) const {
  if (asks_certificates_) return absl::OkStatus();
  for (const Key& key : keys.keys()) {
    if (key.digest.has_value()) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        file_, ": key ", Quoted(key.name),
        " is a certificate, and clients are asked for one only with "
        "--tls-client-ca"));
  }
  return absl::OkStatus();
}

}  // namespace engram
