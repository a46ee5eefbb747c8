// Flags of what engram-server does instead of serving.
//
// Thread-safe: pure functions.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace engram {

// Whether `flag`, with its dashes, is one of the command line's words.
bool HasFlag(const std::vector<std::string>& arguments, absl::string_view flag);

// INVALID_ARGUMENT: what is wrong, and how it is done.
absl::Status BadUse(absl::string_view what, absl::string_view use);

// By flag, without its dashes. BadUse() if one is unknown, is there twice or
// has no value.
absl::StatusOr<std::map<std::string, std::string>> ReadFlagValues(
    const std::vector<std::string>& arguments,
    absl::Span<const absl::string_view> known, absl::string_view use);

}  // namespace engram
