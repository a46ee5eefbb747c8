// What a misspelt word was meant to be.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace engram {

// The candidate that `word` most likely was meant to be, or "" if none is near.
std::string ClosestWord(absl::string_view word,
                        absl::Span<const std::string> candidates);

}  // namespace engram
