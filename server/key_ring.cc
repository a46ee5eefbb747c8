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
      keys_({.read = [this] { return Read(); },
             .make = [this](const std::string& text,
                            const auto&) { return Make(text); },
             .on_change =
                 [this](const KeySet& now) {
                   Log("keys_reloaded",
                       {{"file", file_}, {"keys", CountOf(now)}});
                 },
             .on_failure =
                 [](const std::string& why, const KeySet& now) {
                   Log(LogLevel::kError, "keys_reload_failed",
                       {{"message", why}, {"keys", CountOf(now)}});
                 }}) {}

absl::StatusOr<std::unique_ptr<KeyRing>> KeyRing::Load(const std::string& file,
                                                       bool asks_certificates,
                                                       Tenants* tenants) {
  std::unique_ptr<KeyRing> ring(new KeyRing(file, asks_certificates, tenants));
  ENGRAM_RETURN_IF_ERROR(ring->keys_.Load());
  return ring;
}

absl::StatusOr<std::string> KeyRing::Read() const {
  absl::StatusOr<std::string> text = ReadSmallFile(file_, kFileBytesMax);
  if (text.ok()) return text;
  return absl::InvalidArgumentError(
      absl::StrCat("--keys cannot be read: ", text.status().message()));
}

absl::StatusOr<KeySet> KeyRing::Make(const std::string& text) const {
  ENGRAM_ASSIGN_OR_RETURN(KeySet keys, KeySet::Parse(text, file_));
  for (const Key& key : keys.keys()) {
    if (key.digest.has_value() || asks_certificates_) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        file_, ": key ", Quoted(key.name),
        " is a certificate, and clients are asked for one only with "
        "--tls-client-ca"));
  }
  tenants_->Update(keys.tenants());
  return keys;
}

}  // namespace engram
