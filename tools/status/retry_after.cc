#include "tools/status/retry_after.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace engram {
namespace {

// Who prints a whole status sees it.
constexpr char kPayload[] = "engram.v1/retry-after-ms";

}  // namespace

absl::Status WithRetryAfter(absl::Status status, absl::Duration wait) {
  status.SetPayload(
      kPayload,
      absl::Cord(RetryAfterText(std::max(wait, absl::Milliseconds(1)))));
  return status;
}

std::optional<absl::Duration> RetryAfter(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayload);
  if (!payload.has_value()) return std::nullopt;
  return ParseRetryAfter(std::string(*payload));
}

std::string RetryAfterText(absl::Duration wait) {
  return absl::StrCat(absl::ToInt64Milliseconds(wait));
}

std::optional<absl::Duration> ParseRetryAfter(absl::string_view text) {
  int64_t milliseconds = 0;
  if (!absl::SimpleAtoi(text, &milliseconds) || milliseconds < 0) {
    return std::nullopt;
  }
  return absl::Milliseconds(milliseconds);
}

}  // namespace engram
