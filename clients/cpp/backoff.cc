#include "clients/cpp/backoff.h"

#include <algorithm>

namespace engram {

absl::Duration Backoff::Next() {
  const absl::Duration wait = longest_ * absl::Uniform(random_, 0.5, 1.0);
  longest_ = std::min(2 * longest_, kLimit);
  return wait;
}

void Backoff::Reset() { longest_ = kFirst; }

}  // namespace engram
