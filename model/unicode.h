// The little of Unicode that tokenizers need: whole characters in UTF-8, and
// what kind of character each is.
//
// Functions only. Thread-safe.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace engram {

// What a text in UTF-8 starts with.
struct Utf8Start {
  enum Kind {
    kCharacter,   // a whole character of `length` bytes
    kBroken,      // `length` bytes that can never become a character
    kIncomplete,  // the text ends within a character, after `length` bytes
  };
  Kind kind;
  size_t length;  // 1 to 4
};

// REQUIRES: `text` is not empty. Broken bytes are taken together as Unicode's
// "maximal subpart" says (The Unicode Standard 15, chapter 3.9, table 3-8), as
// Python does: a start that is right as far as it goes counts as one.
Utf8Start StartOfUtf8(std::string_view text);

// Offset of the first byte that is not UTF-8, or npos.
size_t FindInvalidUtf8(std::string_view text);

// The first character of a text. REQUIRES: valid UTF-8, not empty.
char32_t FirstCharacter(std::string_view text);
void AppendUtf8(char32_t character, std::string* text);

// Unicode's properties Letter, Number and White_Space, of which a character has
// one at most.
bool IsLetter(char32_t character);
bool IsNumber(char32_t character);
bool IsWhiteSpace(char32_t character);
// Bytes of white space that `text` starts or ends with. REQUIRES: valid UTF-8.
size_t WhiteSpaceAtStart(std::string_view text);
size_t WhiteSpaceAtEnd(std::string_view text);

// Letters, marks, digits, connectors: what `\w` means in Unicode's technical
// standard 18 on regular expressions.
bool IsWordCharacter(char32_t character);
bool StartsWithWord(std::string_view text);
bool EndsWithWord(std::string_view text);

}  // namespace engram
