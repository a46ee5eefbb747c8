// What the tables of Unicode say, as far as tokenizers need it. They are those
// of Hugging Face's `tokenizers`, character by character, and not those of a
// library of the machine, so that ids are the same everywhere; the file with
// the numbers is made by tools/golden/make_unicode_golden.py.
//
// Thread-safe: constants.
#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace engram {

// From `first` to the next run all characters have `value`. Ascending, from 0.
struct UnicodeRun {
  char32_t first;
  uint8_t value;
};

// `character` is canonically equivalent to `first` and `second`, which may
// themselves be taken apart; `second` 0: to `first` alone. Hangul syllables are
// not listed.
struct UnicodeDecomposition {
  char32_t character;
  char32_t first;
  char32_t second;
};

// Values of UnicodeKinds(): sums of these.
inline constexpr uint8_t kUnicodeLetter = 1;      // `\p{L}`
inline constexpr uint8_t kUnicodeNumber = 2;      // `\p{N}`
inline constexpr uint8_t kUnicodeWhiteSpace = 4;  // `\s`
inline constexpr uint8_t kUnicodeWord = 8;        // `\w`

absl::Span<const UnicodeRun> UnicodeKinds();
// The canonical combining class; 0 of all that are no marks.
absl::Span<const UnicodeRun> UnicodeCombiningClasses();
// Those that Normalization Form C puts together again, and those that it only
// takes apart.
absl::Span<const UnicodeDecomposition> UnicodeCompositions();
absl::Span<const UnicodeDecomposition> UnicodeDecompositionsOnly();

}  // namespace engram
