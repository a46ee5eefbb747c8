// When a refused call may come again: carried by an absl::Status beside its
// code and message, and told to clients in trailing metadata (server/wire.h).
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace engram {

// The key of the payload; its value is whole milliseconds in decimal digits.
inline constexpr char kRetryAfterPayload[] = "engram.v1/retry-after-ms";

// `status` (not OK) with the advice to come again after `wait`, at least a
// millisecond.
absl::Status WithRetryAfter(absl::Status status, absl::Duration wait);
// Nothing if the status says nothing of it.
std::optional<absl::Duration> RetryAfter(const absl::Status& status);

}  // namespace engram
