#include "model/word_level.h"

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "model/unicode.h"

namespace engram {
namespace {

// Bytes of `text` before its first white space.
size_t WordAtStart(std::string_view text) {
  size_t length = 0;
  while (length < text.size() &&
         !IsWhiteSpace(FirstCharacter(text.substr(length)))) {
    length += StartOfUtf8(text.substr(length)).length;
  }
  return length;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> WordLevel::Create(
    const TokenizerFile& file) {
  auto tokenizer = std::make_unique<WordLevel>();
  ENGRAM_RETURN_IF_ERROR(tokenizer->Build(file));
  if (!file.unknown_token.empty()) {
    tokenizer->unknown_id_ = tokenizer->TokenToId(file.unknown_token);
  }
  return tokenizer;
}

absl::Status WordLevel::EncodePiece(std::string_view piece, WorkCheck* check,
                                    std::vector<int32_t>* ids) const {
  piece.remove_prefix(WhiteSpaceAtStart(piece));
  while (!piece.empty()) {
    const std::string_view word = piece.substr(0, WordAtStart(piece));
    int32_t id = TokenToId(word);
    if (id == -1) id = unknown_id_;
    if (id == -1) {
      return absl::InvalidArgumentError(
          absl::StrCat("the vocabulary has no word ", Quoted(word)));
    }
    ids->push_back(id);
    ENGRAM_RETURN_IF_ERROR(check->Done(word.size() + 1));
    piece.remove_prefix(word.size());
    piece.remove_prefix(WhiteSpaceAtStart(piece));
  }
  return absl::OkStatus();
}

std::string WordLevel::Bytes(int32_t id, bool first) const {
  if (!Knows(id)) return "";
  return first ? token(id).text : " " + token(id).text;
}

}  // namespace engram
