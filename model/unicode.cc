#include "model/unicode.h"

#include <cstdint>
#include <cstring>

#include "model/character_table.h"
#include "model/unicode_tables.h"

namespace engram {
namespace {

uint8_t ByteAt(std::string_view text, size_t index) {
  return static_cast<uint8_t>(text[index]);
}

// How a character that starts with some byte must go on. The range of the
// second byte leaves out overlong forms, surrogates, and what is above
// U+10FFFF.
struct Form {
  size_t length;  // 0: no character starts so
  uint8_t second_low;
  uint8_t second_high;
};

Form FormOf(uint8_t first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xC2) return {0, 0, 0};
  if (first < 0xE0) return {2, 0x80, 0xBF};
  if (first == 0xE0) return {3, 0xA0, 0xBF};
  if (first == 0xED) return {3, 0x80, 0x9F};
  if (first < 0xF0) return {3, 0x80, 0xBF};
  if (first == 0xF0) return {4, 0x90, 0xBF};
  if (first < 0xF4) return {4, 0x80, 0xBF};
  if (first == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

bool IsContinuation(uint8_t byte) { return (byte & 0xC0) == 0x80; }

// Where the last character of `text` starts.
size_t LastCharacter(std::string_view text) {
  size_t start = text.size() - 1;
  while (start > 0 && IsContinuation(ByteAt(text, start))) --start;
  return start;
}

// Whether eight bytes starting at `offset` are all ASCII.
bool HasEightAscii(std::string_view text, size_t offset) {
  if (text.size() - offset < sizeof(uint64_t)) return false;
  uint64_t word;
  std::memcpy(&word, text.data() + offset, sizeof(word));
  return (word & 0x8080808080808080) == 0;
}

uint8_t KindsOf(char32_t character) {
  static const CharacterTable* const kinds = new CharacterTable(UnicodeKinds());
  return (*kinds)[character];
}

}  // namespace

Utf8Start StartOfUtf8(std::string_view text) {
  const Form form = FormOf(ByteAt(text, 0));
  if (form.length == 0) return {Utf8Start::kBroken, 1};
  for (size_t i = 1; i < form.length; ++i) {
    if (i == text.size()) return {Utf8Start::kIncomplete, i};
    const uint8_t byte = ByteAt(text, i);
    const bool fits = i == 1
                          ? byte >= form.second_low && byte <= form.second_high
                          : IsContinuation(byte);
    if (!fits) return {Utf8Start::kBroken, i};
  }
  return {Utf8Start::kCharacter, form.length};
}

size_t FindInvalidUtf8(std::string_view text) {
  for (size_t offset = 0; offset < text.size();) {
    if (HasEightAscii(text, offset)) {
      offset += 8;
      continue;
    }
    const Utf8Start start = StartOfUtf8(text.substr(offset));
    if (start.kind != Utf8Start::kCharacter) return offset;
    offset += start.length;
  }
  return std::string_view::npos;
}

char32_t FirstCharacter(std::string_view text) {
  const uint8_t first = ByteAt(text, 0);
  if (first < 0x80) return first;
  const size_t length = FormOf(first).length;
  char32_t character = first & (0x7F >> length);
  for (size_t i = 1; i < length; ++i) {
    character = (character << 6) | (ByteAt(text, i) & 0x3F);
  }
  return character;
}

void AppendUtf8(char32_t character, std::string* text) {
  const auto add = [text](char32_t byte) {
    text->push_back(static_cast<char>(byte));
  };
  const auto add_continuation = [&](int shift) {
    add(0x80 | ((character >> shift) & 0x3F));
  };
  if (character < 0x80) return add(character);
  if (character < 0x800) {
    add(0xC0 | (character >> 6));
    return add_continuation(0);
  }
  if (character < 0x10000) {
    add(0xE0 | (character >> 12));
    add_continuation(6);
    return add_continuation(0);
  }
  add(0xF0 | (character >> 18));
  add_continuation(12);
  add_continuation(6);
  add_continuation(0);
}

bool IsLetter(char32_t character) {
  return (KindsOf(character) & kUnicodeLetter) != 0;
}

bool IsNumber(char32_t character) {
  return (KindsOf(character) & kUnicodeNumber) != 0;
}

bool IsWhiteSpace(char32_t character) {
  return (KindsOf(character) & kUnicodeWhiteSpace) != 0;
}

size_t WhiteSpaceAtStart(std::string_view text) {
  size_t length = 0;
  while (length < text.size() &&
         IsWhiteSpace(FirstCharacter(text.substr(length)))) {
    length += StartOfUtf8(text.substr(length)).length;
  }
  return length;
}

size_t WhiteSpaceAtEnd(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t start = LastCharacter(text.substr(0, end));
    if (!IsWhiteSpace(FirstCharacter(text.substr(start)))) break;
    end = start;
  }
  return text.size() - end;
}

bool IsWordCharacter(char32_t character) {
  return (KindsOf(character) & kUnicodeWord) != 0;
}

bool StartsWithWord(std::string_view text) {
  return !text.empty() && IsWordCharacter(FirstCharacter(text));
}

bool EndsWithWord(std::string_view text) {
  return !text.empty() &&
         IsWordCharacter(FirstCharacter(text.substr(LastCharacter(text))));
}

}  // namespace engram
