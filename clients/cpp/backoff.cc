#include "clients/cpp/backoff.h"

#include <algorithm>

namespace engram::client {

absl::Duration Backoff::Next(absl::Duration least) {
  const absl::Duration wait = longest_ * absl::Uniform(random_, 0.5, 1.0);
  longest_ = std::min(2 * longest_, kLimit);
  return std::max(wait, least * absl::Uniform(random_, 1.0, 1.5));
}

void Backoff::Reset() { longest_ = kFirst; }

}  // namespace engram::client
