// What a misspelt word was meant to be.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace engram {

// The candidate that `word` most likely was meant to be, or "" if none is near.
std::string ClosestWord(absl::string_view word,
                        absl::Span<const std::string> candidates);

// "; did you mean CANDIDATE?" to end an error with, or "" if none is near.
// `prefix` stands before each candidate, and is not compared.
std::string DidYouMean(absl::string_view word,
                       absl::Span<const std::string> candidates,
                       absl::string_view prefix = "");

}  // namespace engram
