// ProcessUsage: what this process takes of the machine, as the kernel counts
// it.
#pragma once

#include <cstdint>

namespace engram {

// 0 where the kernel does not tell.
struct ProcessUsage {
  double cpu_seconds = 0;         // of all threads, user and system
  double start_time_seconds = 0;  // since 1970
  int64_t resident_bytes = 0;
  int64_t virtual_bytes = 0;
  int64_t threads = 0;
  int64_t open_descriptors = 0;
  int64_t max_descriptors = 0;  // INT64_MAX: without limit
};

// Reads a few files of /proc. Thread-safe.
ProcessUsage ReadProcessUsage();

}  // namespace engram
