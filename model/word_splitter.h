// WordSplitter: cuts a text into words as GPT-2 and GPT-NeoX do, by the pattern
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// with letters, numbers and white space as model/unicode.h knows them: English
// endings; then letters, digits or other signs, each with at most one space
// before it; then white space, whose last character stays with the word that
// follows. Every byte of the text is in exactly one word.
// Source: GPT-2 (Radford et al. 2019).
//
// Not thread-safe; one per text, which must outlive it.
#pragma once

#include <cstddef>
#include <string_view>

namespace engram {

class WordSplitter {
 public:
  // REQUIRES: valid UTF-8.
  explicit WordSplitter(std::string_view text) : rest_(text) {}

  // The next word, or an empty one at the end.
  std::string_view Next();

 private:
  std::string_view rest_;
};

}  // namespace engram
