// PiecewiseTokenizer: what byte-level BPE and WordLevel have in common.
//
// It refuses what is not UTF-8, takes added tokens out of the text, normalises
// the rest, and knows every token by content and id; what lies between two
// added tokens is a piece, which the derived class turns into ids.
//
// Thread-safe after loading.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/added_tokens.h"
#include "model/tokenizer.h"
#include "model/tokenizer_file.h"

namespace engram {

class PiecewiseTokenizer : public Tokenizer {
 public:
  int64_t ids() const override;
  bool Knows(int32_t id) const override;
  bool IsSpecial(int32_t id) const override;
  int32_t TokenToId(std::string_view token) const override;

 protected:
  struct Token {
    std::string content;  // as in the file
    std::string text;     // as it is found in a normalised text
    bool known = false;   // otherwise a gap
    bool added = false;
    bool special = false;
  };

  // DATA_LOSS: two tokens with one id, or one token with two.
  absl::Status Build(const TokenizerFile& file);

  // Appends the ids of `piece`: valid UTF-8, normalised, not empty. Tells
  // `check` of the bytes done, and ends with its error.
  virtual absl::Status EncodePiece(std::string_view piece, WorkCheck* check,
                                   std::vector<int32_t>* ids) const = 0;

  // REQUIRES: Knows(id).
  const Token& token(int32_t id) const { return tokens_[id]; }

 private:
  absl::StatusOr<std::vector<int32_t>> EncodeChecked(
      std::string_view text, bool parse_special_tokens,
      WorkCheck* check) const override;
  absl::Status AddToken(const std::string& content, int32_t id);
  absl::Status AddAddedToken(const AddedToken& token);
  absl::Status EncodeRawText(std::string_view text, bool parse_special_tokens,
                             WorkCheck* check, std::vector<int32_t>* ids) const;

  bool normalize_nfc_ = false;
  std::vector<Token> tokens_;  // by id
  absl::flat_hash_map<std::string, int32_t> id_of_content_;
  AddedTokenFinder in_raw_text_;
  AddedTokenFinder in_normalized_text_;
};

}  // namespace engram
