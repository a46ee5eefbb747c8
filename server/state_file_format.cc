#include "server/state_file_format.h"

#include <bit>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {

// Numbers of the file are little-endian.
static_assert(std::endian::native == std::endian::little);

StateFileMetadata MetadataOf(const StateFileModel& model,
                             const CommittedTurns& turns) {
  return {{"format", kStateFormat},
          {"format_version", kStateFormatVersion},
          {"model", model.name},
          {"family", model.family},
          {"weight_hash", model.weight_hash},
          {"weight_format", model.weight_format},
          {"vocabulary_size", absl::StrCat(model.vocabulary_size)},
          {"version", absl::StrCat(turns.version)},
          {"position", absl::StrCat(turns.position)},
          {"pending_token",
           turns.pending.has_value() ? absl::StrCat(*turns.pending) : ""},
          {"dtype", kStateDtype}};
}

absl::string_view BytesOf(const std::vector<int32_t>& ids) {
  return {reinterpret_cast<const char*>(ids.data()),
          ids.size() * sizeof(int32_t)};
}

StateFileChecksum::StateFileChecksum()
    : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
  ENGRAM_CHECK(context_ != nullptr &&
               EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
}

void StateFileChecksum::Add(const StateFileMetadata& metadata) {
  for (const auto& [key, value] : metadata) {
    if (key != kChecksumKey) Add(absl::StrCat(key, "\n", value, "\n"));
  }
}

void StateFileChecksum::Add(const std::string& name, absl::string_view bytes) {
  Add(absl::StrCat(name, "\n"));
  Add(bytes);
}

std::string StateFileChecksum::Finish() {
  std::string digest(EVP_MAX_MD_SIZE, '\0');
  unsigned int size = 0;
  ENGRAM_CHECK(
      EVP_DigestFinal_ex(context_.get(),
                         reinterpret_cast<unsigned char*>(digest.data()),
                         &size) == 1);
  return absl::BytesToHexString(digest.substr(0, size));
}

void StateFileChecksum::Add(absl::string_view bytes) {
  ENGRAM_CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) ==
               1);
}

}  // namespace engram
