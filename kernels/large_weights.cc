#include "kernels/large_weights.h"

#include <atomic>

namespace engram {
namespace {

// What is computed apart begins where any number can.
constexpr int64_t kAlignment = 64;

std::atomic<int64_t> large_bytes = 20'000'000;

int64_t Aligned(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

bool IsLargeWeight(int64_t outputs, int64_t inputs) {
  return outputs * inputs * 2 >= large_bytes;
}

int64_t SetLargeWeightBytesForTest(int64_t bytes) {
  return large_bytes.exchange(bytes);
}

int64_t LibraryProductBytes(WeightFormat format, int64_t outputs,
                            int64_t inputs) {
  const bool has_16_bits =
      format == WeightFormat::kBFloat16 || format == WeightFormat::kFloat16;
  if (!has_16_bits || !IsLargeWeight(outputs, inputs)) return 0;
  const int64_t sums = outputs <= inputs ? outputs : 0;
  return Aligned(inputs * 2) + Aligned(sums * 4);
}

}  // namespace engram
