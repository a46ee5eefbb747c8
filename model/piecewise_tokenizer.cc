#include "model/piecewise_tokenizer.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/status.h"
#include "model/normalization.h"
#include "model/quoted.h"
#include "model/unicode.h"

namespace engram {
namespace {

// Positions in a text are 32-bit numbers in places, and no context is so long.
constexpr size_t kTextBytesMax = size_t{1} << 30;

absl::Status CheckText(std::string_view text) {
  if (text.size() > kTextBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "text has ", text.size(), " bytes, limit ", kTextBytesMax));
  }
  const size_t invalid = FindInvalidUtf8(text);
  if (invalid != std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("text is not UTF-8 at byte ", invalid));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status PiecewiseTokenizer::Build(const TokenizerFile& file) {
  normalize_nfc_ = file.normalize_nfc;
  for (const auto& [content, id] : file.vocabulary) {
    ENGRAM_RETURN_IF_ERROR(AddToken(content, id));
  }
  for (const AddedToken& token : file.added_tokens) {
    ENGRAM_RETURN_IF_ERROR(AddAddedToken(token));
  }
  return absl::OkStatus();
}

absl::Status PiecewiseTokenizer::AddToken(const std::string& content,
                                          int32_t id) {
  if (static_cast<size_t>(id) >= tokens_.size()) tokens_.resize(id + 1);
  Token& token = tokens_[id];
  if (token.known) {
    return absl::DataLossError(absl::StrCat("tokenizer.json: id ", id,
                                            " is both ", Quoted(token.content),
                                            " and ", Quoted(content)));
  }
  token.content = content;
  token.text = content;
  token.known = true;
  id_of_content_.emplace(content, id);
  return absl::OkStatus();
}

absl::Status PiecewiseTokenizer::AddAddedToken(const AddedToken& added) {
  const int32_t id = TokenToId(added.content);
  if (id == -1) {
    ENGRAM_RETURN_IF_ERROR(AddToken(added.content, added.id));
  } else if (id != added.id) {
    return absl::DataLossError(absl::StrCat("tokenizer.json: token ",
                                            Quoted(added.content), " has ids ",
                                            id, " and ", added.id));
  } else if (tokens_[id].added) {
    return absl::DataLossError(absl::StrCat(
        "tokenizer.json: token ", Quoted(added.content), " is added twice"));
  }
  tokens_[added.id].added = true;
  tokens_[added.id].special = added.special;
  if (added.normalized && normalize_nfc_) {
    tokens_[added.id].text = ToNfc(added.content);
  }
  AddedTokenFinder& finder =
      added.normalized ? in_normalized_text_ : in_raw_text_;
  finder.Add(added, tokens_[added.id].text);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> PiecewiseTokenizer::EncodeChecked(
    std::string_view text, bool parse_special_tokens, WorkCheck* check) const {
  ENGRAM_RETURN_IF_ERROR(CheckText(text));
  std::vector<int32_t> ids;
  for (const auto& piece : in_raw_text_.Split(text, parse_special_tokens)) {
    if (piece.token != -1) {
      ids.push_back(piece.token);
      continue;
    }
    ENGRAM_RETURN_IF_ERROR(
        EncodeRawText(piece.text, parse_special_tokens, check, &ids));
  }
  return ids;
}

absl::Status PiecewiseTokenizer::EncodeRawText(
    std::string_view text, bool parse_special_tokens, WorkCheck* check,
    std::vector<int32_t>* ids) const {
  std::string normalized;
  if (normalize_nfc_) {
    normalized = ToNfc(text);
    text = normalized;
  }
  for (const auto& piece :
       in_normalized_text_.Split(text, parse_special_tokens)) {
    if (piece.token != -1) {
      ids->push_back(piece.token);
      continue;
    }
    ENGRAM_RETURN_IF_ERROR(EncodePiece(piece.text, check, ids));
  }
  return absl::OkStatus();
}

int64_t PiecewiseTokenizer::ids() const {
  return static_cast<int64_t>(tokens_.size());
}

bool PiecewiseTokenizer::Knows(int32_t id) const {
  return id >= 0 && id < ids() && tokens_[id].known;
}

bool PiecewiseTokenizer::IsSpecial(int32_t id) const {
  return Knows(id) && tokens_[id].special;
}

int32_t PiecewiseTokenizer::TokenToId(std::string_view token) const {
  const auto found =
      id_of_content_.find(absl::string_view(token.data(), token.size()));
  return found == id_of_content_.end() ? -1 : found->second;
}

}  // namespace engram
