// TimeText: a time as the server's messages and log fields say it.
//
// Thread-safe: a pure function.
#pragma once

#include <string>

#include "absl/time/time.h"

namespace engram {

// "2027-01-02T00:00:00Z".
inline std::string TimeText(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone());
}

}  // namespace engram
