#include "clients/cpp/backoff.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"

namespace engram {
namespace {

constexpr char kServerWaitPayload[] = "engram.v1/retry-after-ms";

}  // namespace

absl::Status WithServerWait(absl::Status status,
                            absl::string_view milliseconds) {
  status.SetPayload(kServerWaitPayload, absl::Cord(milliseconds));
  return status;
}

std::optional<absl::Duration> ServerWait(const absl::Status& status) {
  const absl::optional<absl::Cord> payload =
      status.GetPayload(kServerWaitPayload);
  int64_t milliseconds = 0;
  if (!payload.has_value() ||
      !absl::SimpleAtoi(std::string(*payload), &milliseconds) ||
      milliseconds < 0) {
    return std::nullopt;
  }
  return absl::Milliseconds(milliseconds);
}

absl::Duration Backoff::Next(absl::Duration least) {
  const absl::Duration wait = longest_ * absl::Uniform(random_, 0.5, 1.0);
  longest_ = std::min(2 * longest_, kLimit);
  return std::max(wait, least * absl::Uniform(random_, 1.0, 1.5));
}

void Backoff::Reset() { longest_ = kFirst; }

}  // namespace engram
