// When a refused call may come again. A server tells it in the trailing
// metadata of the call; on either side it is carried by an absl::Status, beside
// its code and message.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace engram {

// The key in the trailing metadata; its value is what RetryAfterText() makes.
inline constexpr char kRetryAfterMetadata[] = "retry-after-ms";

// `status` (not OK) with the advice to come again after `wait`, at least a
// millisecond.
absl::Status WithRetryAfter(absl::Status status, absl::Duration wait);
// Nothing if the status says nothing of it.
std::optional<absl::Duration> RetryAfter(const absl::Status& status);

// Whole milliseconds in decimal digits; a fraction is left out.
std::string RetryAfterText(absl::Duration wait);
// Nothing if `text` is no such number.
std::optional<absl::Duration> ParseRetryAfter(absl::string_view text);

}  // namespace engram
