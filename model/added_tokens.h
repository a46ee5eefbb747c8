// AddedTokenFinder: cuts a text at the added tokens in it.
//
// Of several tokens that start at the first possible place the longest is
// taken, and the search goes on behind it.
//
// Thread-safe after building.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "model/tokenizer_file.h"

namespace engram {

class AddedTokenFinder {
 public:
  // A part of a text: an added token, or text between such.
  struct Piece {
    std::string_view text;
    int32_t token = -1;  // -1: text
  };

  // `text` is what to look for: the content of the token, maybe normalised.
  // REQUIRES: not empty.
  void Add(const AddedToken& token, std::string_view text);

  // The pieces of `text`, never empty ones. A special token is text unless
  // `parse_special_tokens`, but other tokens are not looked for within it.
  // REQUIRES: valid UTF-8.
  std::vector<Piece> Split(std::string_view text,
                           bool parse_special_tokens) const;

 private:
  static constexpr int32_t kNone = -1;

  struct Match {
    const AddedToken* token = nullptr;  // nullptr: none
    size_t begin = 0;
    size_t end = 0;
  };

  Match FindFrom(std::string_view text, size_t begin) const;
  const AddedToken* LongestAtStart(std::string_view text) const;

  std::vector<AddedToken> tokens_;     // content: what to look for
  std::array<bool, 256> starts_ = {};  // whether a token starts with this byte
  // A prefix tree. Node 0 is the root; an edge is (node, byte).
  absl::flat_hash_map<std::pair<int32_t, char>, int32_t> edges_;
  std::vector<int32_t> token_at_node_ = {kNone};  // index into tokens_
};

}  // namespace engram
