// The content of a tokenizer.json as plain values.
//
// Whatever is not understood and could change ids is refused by its name, so
// that the classes which use these values never meet JSON or a surprise. What
// cannot change the ids of a text, such as the settings of a training call that
// were saved along, is passed over with a warning.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace engram {

// A token that is looked for in the text itself, before any splitting.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // plain text unless asked for
  bool normalized = false;   // looked for in the normalised text, not the raw
  bool strip_left = false;   // takes the white space before it along
  bool strip_right = false;  // takes the white space after it along
  bool single_word = false;  // not within a word
};

struct TokenizerFile {
  enum class Kind { kByteLevelBpe, kWordLevel };

  // Ids are below this, so that a damaged file cannot ask for a huge table.
  static constexpr int64_t kIdsMax = int64_t{1} << 20;

  Kind kind = Kind::kByteLevelBpe;
  bool normalize_nfc = false;
  std::vector<AddedToken> added_tokens;
  std::vector<std::pair<std::string, int32_t>> vocabulary;
  std::string unknown_token;  // empty: none
  // What is odd in the file and was passed over, one sentence each.
  std::vector<std::string> warnings;

  // Byte-level BPE only.
  std::vector<std::pair<std::string, std::string>> merges;  // best first
  bool ignore_merges = false;     // a piece that is a token is taken whole
  bool add_prefix_space = false;  // every piece starts with a space
  bool split_words = true;        // by the pattern of GPT-2
};

// DATA_LOSS: not a tokenizer.json, with the place. UNIMPLEMENTED: a kind or
// setting that is not understood, by its name.
absl::StatusOr<TokenizerFile> ParseTokenizerFile(std::string_view json);

}  // namespace engram
