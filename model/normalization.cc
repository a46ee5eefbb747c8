#include "model/normalization.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "model/character_table.h"
#include "model/unicode.h"
#include "model/unicode_tables.h"

namespace engram {
namespace {

// Hangul syllables are composed by arithmetic.
// Source: The Unicode Standard 15, chapter 3.12.
constexpr char32_t kLeadBase = 0x1100;
constexpr char32_t kVowelBase = 0x1161;
constexpr char32_t kTrailBase = 0x11A7;  // one before the first trail
constexpr char32_t kSyllableBase = 0xAC00;
constexpr char32_t kLeads = 19;
constexpr char32_t kVowels = 21;
constexpr char32_t kTrails = 28;  // no trail is one of them
constexpr char32_t kSyllables = kLeads * kVowels * kTrails;

using Pair = std::pair<char32_t, char32_t>;

struct Tables {
  CharacterTable combining_class{UnicodeCombiningClasses()};
  absl::flat_hash_map<char32_t, Pair> parts;
  absl::flat_hash_map<Pair, char32_t> whole;

  Tables() {
    for (const auto& [character, first, second] : UnicodeCompositions()) {
      parts[character] = {first, second};
      whole[{first, second}] = character;
    }
    for (const auto& [character, first, second] : UnicodeDecompositionsOnly()) {
      parts[character] = {first, second};
    }
  }
};

const Tables& GetTables() {
  static const Tables* const tables = new Tables;
  return *tables;
}

// Below U+0300 there are only characters that NFC leaves as they are; in UTF-8
// these start with a byte below 0xCC.
bool IsSurelyNfc(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char byte) {
    return static_cast<uint8_t>(byte) < 0xCC;
  });
}

void AppendDecomposed(char32_t character, const Tables& tables,
                      std::vector<char32_t>* characters) {
  const char32_t syllable = character - kSyllableBase;
  if (character >= kSyllableBase && syllable < kSyllables) {
    characters->push_back(kLeadBase + syllable / (kVowels * kTrails));
    characters->push_back(kVowelBase + syllable / kTrails % kVowels);
    const char32_t trail = syllable % kTrails;
    if (trail != 0) characters->push_back(kTrailBase + trail);
    return;
  }
  const auto found = tables.parts.find(character);
  if (found == tables.parts.end()) {
    characters->push_back(character);
    return;
  }
  AppendDecomposed(found->second.first, tables, characters);
  if (found->second.second == 0) return;
  AppendDecomposed(found->second.second, tables, characters);
}

std::vector<char32_t> Decompose(std::string_view text, const Tables& tables) {
  std::vector<char32_t> characters;
  characters.reserve(text.size());
  while (!text.empty()) {
    AppendDecomposed(FirstCharacter(text), tables, &characters);
    text.remove_prefix(StartOfUtf8(text).length);
  }
  return characters;
}

// Sorts each run of combining marks by class.
void OrderMarks(const CharacterTable& combining_class,
                std::vector<char32_t>* characters) {
  const auto is_mark = [&](char32_t c) { return combining_class[c] != 0; };
  auto begin = std::find_if(characters->begin(), characters->end(), is_mark);
  while (begin != characters->end()) {
    const auto end = std::find_if_not(begin, characters->end(), is_mark);
    std::stable_sort(begin, end, [&](char32_t a, char32_t b) {
      return combining_class[a] < combining_class[b];
    });
    begin = std::find_if(end, characters->end(), is_mark);
  }
}

// The character that two make, or 0.
char32_t Composed(char32_t first, char32_t second, const Tables& tables) {
  if (first >= kLeadBase && first < kLeadBase + kLeads &&
      second >= kVowelBase && second < kVowelBase + kVowels) {
    return kSyllableBase +
           ((first - kLeadBase) * kVowels + (second - kVowelBase)) * kTrails;
  }
  if (first >= kSyllableBase && first < kSyllableBase + kSyllables &&
      (first - kSyllableBase) % kTrails == 0 && second > kTrailBase &&
      second < kTrailBase + kTrails) {
    return first + (second - kTrailBase);
  }
  const auto found = tables.whole.find({first, second});
  return found == tables.whole.end() ? 0 : found->second;
}

// Puts each character into the last one of class 0 if the two compose and none
// of the same class or of class 0 stands between them.
void Compose(const Tables& tables, std::vector<char32_t>* characters) {
  constexpr size_t kNone = SIZE_MAX;
  size_t starter = kNone;
  size_t kept = 0;
  int last_class = 0;  // of what stands behind the starter
  for (const char32_t character : *characters) {
    const int combining_class = tables.combining_class[character];
    const bool adjacent = starter != kNone && kept == starter + 1;
    if (starter != kNone && (adjacent || last_class < combining_class)) {
      const char32_t whole =
          Composed((*characters)[starter], character, tables);
      if (whole != 0) {
        (*characters)[starter] = whole;
        continue;
      }
    }
    if (combining_class == 0) starter = kept;
    last_class = combining_class;
    (*characters)[kept++] = character;
  }
  characters->resize(kept);
}

}  // namespace

std::string ToNfc(std::string_view text) {
  if (IsSurelyNfc(text)) return std::string(text);
  const Tables& tables = GetTables();
  std::vector<char32_t> characters = Decompose(text, tables);
  OrderMarks(tables.combining_class, &characters);
  Compose(tables, &characters);
  std::string composed;
  composed.reserve(text.size());
  for (const char32_t character : characters) AppendUtf8(character, &composed);
  return composed;
}

}  // namespace engram
