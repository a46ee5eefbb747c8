#include "kernels/large_weights.h"

#include <atomic>

namespace engram {
namespace {

std::atomic<int64_t> large_bytes = 20'000'000;

}  // namespace

bool IsLargeWeight(int64_t outputs, int64_t inputs) {
  return outputs * inputs * 2 >= large_bytes;
}

int64_t SetLargeWeightBytesForTest(int64_t bytes) {
  return large_bytes.exchange(bytes);
}

}  // namespace engram
