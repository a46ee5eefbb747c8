// Durations as people write them in flags and environment variables.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace engram {

// "1500ms", "30s", "2m", "1h30m", "inf"; a bare number counts seconds. Errors:
// INVALID_ARGUMENT with the text for what is none, or is below zero.
absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text);

}  // namespace engram
