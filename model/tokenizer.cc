#include "model/tokenizer.h"

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/byte_level_bpe.h"
#include "model/strict_json.h"
#include "model/tokenizer_file.h"
#include "model/unicode.h"
#include "model/word_level.h"

namespace engram {
namespace {

// The largest public ones have about 20 MB.
constexpr size_t kFileBytesMax = size_t{64} << 20;

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(
    const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string json,
                          ReadSmallFile(path, kFileBytesMax));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Parse(json);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      absl::StrCat(path, ": ", tokenizer.status().message()));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(
    std::string_view json) {
  ENGRAM_ASSIGN_OR_RETURN(const TokenizerFile file, ParseTokenizerFile(json));
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer,
                          file.kind == TokenizerFile::Kind::kByteLevelBpe
                              ? ByteLevelBpe::Create(file)
                              : WordLevel::Create(file));
  tokenizer->warnings_ = file.warnings;
  return tokenizer;
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids) const {
  std::string bytes;
  for (size_t i = 0; i < ids.size(); ++i) bytes += Bytes(ids[i], i == 0);
  return bytes;
}

TextDecoder::Piece TextDecoder::Append(int32_t id) {
  Piece piece;
  piece.bytes = tokenizer_->Bytes(id, first_);
  first_ = false;
  held_back_ += piece.bytes;
  std::string_view rest = held_back_;
  while (!rest.empty()) {
    const Utf8Start start = StartOfUtf8(rest);
    if (start.kind == Utf8Start::kIncomplete) break;
    if (start.kind == Utf8Start::kCharacter) {
      piece.text += rest.substr(0, start.length);
    } else {
      piece.text += kReplacement;
    }
    rest.remove_prefix(start.length);
  }
  held_back_.erase(0, held_back_.size() - rest.size());
  return piece;
}

std::string TextDecoder::Flush() {
  const bool is_cut = !held_back_.empty();
  held_back_.clear();
  return is_cut ? kReplacement : "";
}

}  // namespace engram
