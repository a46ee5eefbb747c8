// How long to wait before a call is repeated.
#pragma once

#include "absl/random/random.h"
#include "absl/time/time.h"

namespace engram::client {

// Exponential with jitter: the n-th wait is drawn evenly from the upper half of
// 100 ms, 200 ms, 400 ms, ... up to 5 s, so that clients that lost one server
// at the same moment do not come back at the same moment. Thread-compatible.
class Backoff {
 public:
  // Not shorter than `least`, if the server says when to come again: then drawn
  // evenly from up to half as much on top.
  absl::Duration Next(absl::Duration least = absl::ZeroDuration());
  // Begins again with the shortest wait.
  void Reset();

 private:
  absl::BitGen random_;
  absl::Duration longest_ = kFirst;

  static constexpr absl::Duration kFirst = absl::Milliseconds(100);
  static constexpr absl::Duration kLimit = absl::Seconds(5);
};

}  // namespace engram::client
