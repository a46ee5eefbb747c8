#include "model/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "kernels/status.h"

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

// Below U+0300 there are only characters that NFC leaves as they are; in UTF-8
// these start with a byte below 0xCC.
bool IsSurelyNfc(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char byte) {
    return static_cast<uint8_t>(byte) < 0xCC;
  });
}

std::vector<utf8proc_int32_t> Decompose(std::string_view text) {
  // No canonical decomposition has more than four characters.
  constexpr size_t kPartsMax = 32;
  std::vector<utf8proc_int32_t> characters;
  characters.reserve(text.size());
  while (!text.empty()) {
    utf8proc_int32_t parts[kPartsMax];
    int boundary = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(FirstCharacter(text)), parts, kPartsMax,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE),
        &boundary);
    ENGRAM_CHECK(count >= 0 && count <= static_cast<ptrdiff_t>(kPartsMax));
    characters.insert(characters.end(), parts, parts + count);
    text.remove_prefix(StartOfUtf8(text).length);
  }
  return characters;
}

int CombiningClass(utf8proc_int32_t character) {
  return utf8proc_get_property(character)->combining_class;
}

// Sorts each run of combining marks by class. utf8proc can do it too, but takes
// quadratic time for a long run, which a hostile text could use.
void OrderMarks(std::vector<utf8proc_int32_t>* characters) {
  const auto is_mark = [](utf8proc_int32_t c) {
    return CombiningClass(c) != 0;
  };
  auto begin = std::find_if(characters->begin(), characters->end(), is_mark);
  while (begin != characters->end()) {
    const auto end = std::find_if_not(begin, characters->end(), is_mark);
    std::stable_sort(begin, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return CombiningClass(a) < CombiningClass(b);
    });
    begin = std::find_if(end, characters->end(), is_mark);
  }
}

void AppendComposed(std::span<utf8proc_int32_t> characters, std::string* text) {
  const utf8proc_ssize_t count = utf8proc_normalize_utf32(
      characters.data(), static_cast<utf8proc_ssize_t>(characters.size()),
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  ENGRAM_CHECK(count >= 0);
  for (utf8proc_int32_t character :
       characters.first(static_cast<size_t>(count))) {
    AppendUtf8(static_cast<char32_t>(character), text);
  }
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
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t length =
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(character), bytes);
  text->append(reinterpret_cast<const char*>(bytes),
               static_cast<size_t>(length));
}

bool IsWhiteSpace(char32_t character) {
  if (character <= 0x20) {
    return character == 0x20 || (character >= 0x09 && character <= 0x0D);
  }
  return character == 0x85 || character == 0xA0 || character == 0x1680 ||
         (character >= 0x2000 && character <= 0x200A) || character == 0x2028 ||
         character == 0x2029 || character == 0x202F || character == 0x205F ||
         character == 0x3000;
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
  if (character == 0x200C || character == 0x200D) return true;  // joiners
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(character))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      // Circled and squared letters are symbols that are alphabetic.
      return (character >= 0x24B6 && character <= 0x24E9) ||
             (character >= 0x1F130 && character <= 0x1F149) ||
             (character >= 0x1F150 && character <= 0x1F169) ||
             (character >= 0x1F170 && character <= 0x1F189);
  }
}

bool StartsWithWord(std::string_view text) {
  return !text.empty() && IsWordCharacter(FirstCharacter(text));
}

bool EndsWithWord(std::string_view text) {
  return !text.empty() &&
         IsWordCharacter(FirstCharacter(text.substr(LastCharacter(text))));
}

std::string ToNfc(std::string_view text) {
  if (IsSurelyNfc(text)) return std::string(text);
  std::vector<utf8proc_int32_t> characters = Decompose(text);
  OrderMarks(&characters);
  // utf8proc 2.8 loses a U+11A7 behind a Hangul syllable, as if it was a final
  // consonant. Nothing composes with it, so that the parts around it are apart.
  constexpr utf8proc_int32_t kNoFinalConsonant = 0x11A7;
  std::string composed;
  composed.reserve(text.size());
  auto begin = characters.begin();
  while (true) {
    const auto end = std::find(begin, characters.end(), kNoFinalConsonant);
    AppendComposed({begin, end}, &composed);
    if (end == characters.end()) return composed;
    AppendUtf8(kNoFinalConsonant, &composed);
    begin = end + 1;
  }
}

}  // namespace engram
