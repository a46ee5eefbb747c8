// Products of float32 factors on the tensor cores: each factor is taken as two
// bfloat16, the nearest and the nearest of what is left, 16 bits together. The
// product of what is left of both is below what that leaves of each, and not
// computed.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"

namespace engram::cuda {

// Two neighbouring float32 as bfloat16, the first in the lower half, and what
// that leaves of them.
struct PairHalves {
  uint32_t high;
  uint32_t low;
};

__device__ inline PairHalves HalvesOf(float2 pair) {
  const uint16_t first_high = NarrowBf16(pair.x);
  const uint16_t second_high = NarrowBf16(pair.y);
  const uint16_t first_low = NarrowBf16(pair.x - WidenBf16(first_high));
  const uint16_t second_low = NarrowBf16(pair.y - WidenBf16(second_high));
  return {first_high | static_cast<uint32_t>(second_high) << 16,
          first_low | static_cast<uint32_t>(second_low) << 16};
}

// Factors of a warp's product, laid out as device.h says.
struct LeftFactor {
  uint32_t high[4];
  uint32_t low[4];

  __device__ void Set(int index, float2 pair) {
    const PairHalves halves = HalvesOf(pair);
    high[index] = halves.high;
    low[index] = halves.low;
  }
};
// Lies in memory as a lane has it.
struct alignas(16) RightFactor {
  uint32_t high[2];
  uint32_t low[2];
};
__device__ inline RightFactor RightOf(float2 first, float2 second) {
  const PairHalves a = HalvesOf(first), b = HalvesOf(second);
  return {{a.high, b.high}, {a.low, b.low}};
}

// sums[i] += left right[i] for all i from `first` on: low high + high low +
// high high, in this order. Sums of different i don't wait for each other.
template <int kCount>
__device__ inline void AddProducts(float (&sums)[kCount][4], int first,
                                   const LeftFactor& left,
                                   const RightFactor (&right)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i >= first) MmaBf16(sums[i], left.low, right[i].high);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i >= first) MmaBf16(sums[i], left.high, right[i].low);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i >= first) MmaBf16(sums[i], left.high, right[i].high);
  }
}

}  // namespace engram::cuda
