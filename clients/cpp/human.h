// Times and sizes as people read them.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace engram::client {

// "now", "59s ago", "3m ago", "2h ago", "9d ago", "3y ago": at most 8
// characters. A time in the future, by a clock that is ahead, is "now".
std::string Ago(absl::Time time, absl::Time now);

// "now", "in 59s", "in 3m", "in 24h", "in 9d", "in 99y"; "never" for the
// infinite future.
std::string Until(absl::Time time, absl::Time now);

// "512 B", "2.8 MiB": at most 8 characters.
std::string Bytes(int64_t bytes);

// "512 B/s", "2.81 GB/s": of 1000, with three digits, in `unit`.
std::string Rate(double rate, absl::string_view unit);

// `text`, or if it is longer than `width` characters its beginning and end with
// "..." between. REQUIRES: ASCII, width >= 5.
std::string Shortened(absl::string_view text, size_t width);

}  // namespace engram::client
