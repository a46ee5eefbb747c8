#include "server/key_ring.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/strict_json.h"

namespace engram {
namespace {

// Some hundred thousand keys.
constexpr size_t kFileBytesMax = 64 << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<KeyRing>> KeyRing::Load(const std::string& file,
                                                       Tenants* tenants) {
  std::unique_ptr<KeyRing> ring(new KeyRing(file));
  const absl::StatusOr<std::string> text = ReadSmallFile(file, kFileBytesMax);
  if (!text.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--keys cannot be read: ", text.status().message()));
  }
  ENGRAM_ASSIGN_OR_RETURN(KeySet keys, KeySet::Parse(*text, file));
  tenants->Update(keys.tenants());
  absl::MutexLock lock(&ring->mutex_);
  ring->current_ = std::make_shared<const KeySet>(std::move(keys));
  return ring;
}

std::shared_ptr<const KeySet> KeyRing::current() const {
  absl::MutexLock lock(&mutex_);
  return current_;
}

}  // namespace engram
