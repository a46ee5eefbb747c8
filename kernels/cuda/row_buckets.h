// Buckets of rows: decode steps are padded to one of them, and each has a graph
// of its own.
#pragma once

#include <cstdint>
#include <iterator>

namespace engram::cuda {

// Close enough that no step computes half as many rows again as it has beyond
// the first few; above the last one a step has so much to do that launching
// its kernels one by one costs it nothing.
inline constexpr int64_t kRowBuckets[] = {1,  2,  4,   8,   16, 32,
                                          64, 96, 128, 192, 256};
inline constexpr int64_t kLargestBucket = *std::rbegin(kRowBuckets);

}  // namespace engram::cuda
