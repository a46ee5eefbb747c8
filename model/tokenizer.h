// Tokenizer: text to token ids and back, read from an ordinary tokenizer.json.
//
// Three kinds are understood: byte-level BPE (GPT-2, GPT-NeoX), the same
// without merges (a plain byte tokenizer), and WordLevel with WhitespaceSplit
// (the symbols of the synthetic tasks). Results equal those of Hugging Face's
// `tokenizers` with no special tokens added and no clean-up of spaces.
//
// Thread-safe after loading.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/work_check.h"

namespace engram {

class Tokenizer {
 public:
  // NOT_FOUND: no such file. DATA_LOSS: not a tokenizer.json, or damaged, with
  // what and where. UNIMPLEMENTED: a kind or setting that is not understood,
  // by its name; nothing is ever ignored in silence that would change ids.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(
      const std::string& path);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(
      std::string_view json);

  virtual ~Tokenizer() = default;

  // What is odd in the file and was passed over, one sentence each.
  const std::vector<std::string>& warnings() const { return warnings_; }

  // INVALID_ARGUMENT: `text` is not UTF-8 (with the offset), or has a word
  // that the vocabulary lacks (with the word). Special tokens are recognised in
  // the text only if `parse_special_tokens`; otherwise they are plain text.
  // Other added tokens (GPT-NeoX's runs of spaces) always are. A long text asks
  // `check`, unless it is nullptr, whether to go on, and ends with what it
  // says.
  absl::StatusOr<std::vector<int32_t>> Encode(
      std::string_view text, bool parse_special_tokens,
      WorkCheck* check = nullptr) const {
    WorkCheck always([] { return absl::OkStatus(); });
    return EncodeChecked(text, parse_special_tokens,
                         check == nullptr ? &always : check);
  }

  // One more than the largest id.
  virtual int64_t ids() const = 0;
  // Whether the id has a token: vocabularies may have gaps.
  virtual bool Knows(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  // The id of an added or vocabulary token by its exact content, or -1.
  virtual int32_t TokenToId(std::string_view token) const = 0;

  // The bytes that `id` adds to a text. `first`: nothing precedes it; a
  // WordLevel token is otherwise preceded by a space. A special token gives its
  // content. Unknown ids give nothing.
  virtual std::string Bytes(int32_t id, bool first) const = 0;

  // All of the bytes; may be broken UTF-8 at the ends.
  std::string Decode(absl::Span<const int32_t> ids) const;

 private:
  virtual absl::StatusOr<std::vector<int32_t>> EncodeChecked(
      std::string_view text, bool parse_special_tokens,
      WorkCheck* check) const = 0;

  std::vector<std::string> warnings_;
};

// Turns ids one by one into text of whole characters. Bytes that are not yet a
// whole character are held back; bytes that can never become one are replaced
// by U+FFFD, as in Python's `errors="replace"`, so that the text over a whole
// stream equals the text of its bytes decoded at once.
// Not thread-safe; one per stream. `tokenizer` must outlive it.
class TextDecoder {
 public:
  explicit TextDecoder(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}

  struct Piece {
    std::string bytes;  // what this id adds, exactly
    std::string text;   // whole characters that are complete now
  };
  Piece Append(int32_t id);
  // What was held back: one U+FFFD per maximal broken part, or nothing.
  std::string Flush();
  // Whether something is held back: the last id ended within a character.
  bool is_within_character() const { return !held_back_.empty(); }

 private:
  const Tokenizer* tokenizer_;
  bool first_ = true;
  std::string held_back_;  // at most 3 bytes
};

}  // namespace engram
