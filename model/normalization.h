// Unicode's Normalization Form C, as Hugging Face's `tokenizers` have it.
//
// Thread-safe.
#pragma once

#include <string>
#include <string_view>

namespace engram {

// REQUIRES: valid UTF-8. Takes O(n log n) however many combining marks follow
// each other. Marks that the tables of `tokenizers` do not know (they stand on
// an old version of Unicode) stay where they are.
std::string ToNfc(std::string_view text);

}  // namespace engram
