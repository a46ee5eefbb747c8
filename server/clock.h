// Clock: the only place the time is read, so that tests can turn it by hand.
#pragma once

#include "absl/time/time.h"

namespace engram {

class Clock {
 public:
  virtual ~Clock() = default;
  // Thread-safe.
  virtual absl::Time Now() = 0;
};

// The machine's clock; never destroyed.
Clock* RealClock();

}  // namespace engram
