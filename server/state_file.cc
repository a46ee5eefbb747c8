#include "server/state_file.h"

#include <openssl/evp.h>

#include <algorithm>
#include <bit>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

using Json = nlohmann::json;
using Metadata = std::map<std::string, std::string>;

// Numbers of the file are little-endian.
static_assert(std::endian::native == std::endian::little);

constexpr char kFormat[] = "engram-state";
constexpr char kFormatVersion[] = "1";
constexpr char kMetadataKey[] = "__metadata__";
constexpr char kSeenTokens[] = "seen_tokens";

class Checksummer {
 public:
  Checksummer() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    ENGRAM_CHECK(context_ != nullptr &&
                 EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void Add(absl::string_view bytes) {
    ENGRAM_CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) ==
                 1);
  }
  void Add(const Metadata& metadata) {
    for (const auto& [key, value] : metadata) {
      if (key != "checksum") Add(absl::StrCat(key, "\n", value, "\n"));
    }
  }
  void Add(const std::string& name, absl::string_view bytes) {
    Add(absl::StrCat(name, "\n"));
    Add(bytes);
  }
  std::string Finish() {
    std::string digest(EVP_MAX_MD_SIZE, '\0');
    unsigned int size = 0;
    ENGRAM_CHECK(
        EVP_DigestFinal_ex(context_.get(),
                           reinterpret_cast<unsigned char*>(digest.data()),
                           &size) == 1);
    return absl::BytesToHexString(digest.substr(0, size));
  }

 private:
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

absl::string_view BytesOf(const std::vector<int32_t>& ids) {
  return {reinterpret_cast<const char*>(ids.data()),
          ids.size() * sizeof(int32_t)};
}

std::vector<int32_t> IdsOf(const TokenSet* tokens) {
  std::vector<int32_t> ids;
  if (tokens != nullptr) {
    tokens->ForEach([&](int32_t id) { ids.push_back(id); });
  }
  return ids;
}

Metadata MetadataOf(const StateFileModel& model, const CommittedTurns& turns) {
  return {{"format", kFormat},
          {"format_version", kFormatVersion},
          {"model", model.name},
          {"family", model.family},
          {"weight_hash", model.weight_hash},
          {"weight_format", model.weight_format},
          {"vocabulary_size", absl::StrCat(model.vocabulary_size)},
          {"version", absl::StrCat(turns.version)},
          {"position", absl::StrCat(turns.position)},
          {"pending_token",
           turns.pending.has_value() ? absl::StrCat(*turns.pending) : ""},
          {"dtype", "F32"}};
}

}  // namespace

StateFileWriter::StateFileWriter(const StateFileModel& model,
                                 const CommittedTurns& turns,
                                 std::shared_ptr<const StateBlock> block)
    : block_(std::move(block)), seen_(IdsOf(turns.seen.get())) {
  const auto* const data = reinterpret_cast<const char*>(block_->data());
  struct Part {
    const char* type;
    std::vector<int64_t> shape;
    absl::string_view bytes;
  };
  std::map<std::string, Part> parts;
  for (StateTensor& tensor : model.layout.TensorsAfter(turns.position)) {
    parts[tensor.name] = {
        "F32", std::move(tensor.shape), {data + tensor.offset, tensor.bytes}};
  }
  parts[kSeenTokens] = {
      "I32", {static_cast<int64_t>(seen_.size())}, BytesOf(seen_)};

  Metadata metadata = MetadataOf(model, turns);
  Json header = Json::object();
  Checksummer checksum;
  checksum.Add(metadata);
  size_t begin = 0;
  for (const auto& [name, part] : parts) {
    const size_t end = begin + part.bytes.size();
    header[name] = {{"dtype", part.type},
                    {"shape", part.shape},
                    {"data_offsets", {begin, end}}};
    checksum.Add(name, part.bytes);
    begin = end;
  }
  metadata["checksum"] = checksum.Finish();
  header[kMetadataKey] = metadata;
  std::string text =
      header.dump(-1, ' ', false, Json::error_handler_t::replace);
  // Data begin at a multiple of eight bytes.
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t header_bytes = text.size();
  header_.assign(reinterpret_cast<const char*>(&header_bytes),
                 sizeof(header_bytes));
  header_ += text;
  pieces_.push_back(header_);
  for (const auto& [name, part] : parts) pieces_.push_back(part.bytes);
  bytes_ = header_.size() + begin;
}

std::string StateFileWriter::Next(size_t most) {
  std::string next;
  while (next_piece_ < pieces_.size() && next.size() < most) {
    absl::string_view& piece = pieces_[next_piece_];
    const size_t count = std::min(piece.size(), most - next.size());
    next.append(piece.data(), count);
    piece.remove_prefix(count);
    if (piece.empty()) ++next_piece_;
  }
  return next;
}

}  // namespace engram
