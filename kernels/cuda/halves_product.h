// Products of float32 factors on the tensor cores: each factor is taken as two
// bfloat16, the nearest and the nearest of what is left, 16 bits together.
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

__device__ inline PairHalves HalvesOf(float first, float second) {
  const uint16_t first_high = NarrowBf16(first);
  const uint16_t second_high = NarrowBf16(second);
  const uint16_t first_low = NarrowBf16(first - WidenBf16(first_high));
  const uint16_t second_low = NarrowBf16(second - WidenBf16(second_high));
  return {first_high | static_cast<uint32_t>(second_high) << 16,
          first_low | static_cast<uint32_t>(second_low) << 16};
}

// Values [rows, stride] in shared memory, both halves apart.
template <int kRows, int kStride>
struct Halves {
  uint16_t high[kRows * kStride];
  uint16_t low[kRows * kStride];

  // At an even column.
  __device__ void Put(int row, int column, PairHalves pair) {
    *reinterpret_cast<uint32_t*>(high + row * kStride + column) = pair.high;
    *reinterpret_cast<uint32_t*>(low + row * kStride + column) = pair.low;
  }
};

// Factors of a warp's product, laid out as device.h says.
struct LeftFactor {
  uint32_t high[4];
  uint32_t low[4];
};
struct RightFactor {
  uint32_t high[2];
  uint32_t low[2];
};

// sums += left right: low low + high low + low high + high high, in this order.
__device__ inline void AddProduct(float (&sums)[4], const LeftFactor& left,
                                  const RightFactor& right) {
  MmaBf16(sums, left.low, right.low);
  MmaBf16(sums, left.high, right.low);
  MmaBf16(sums, left.low, right.high);
  MmaBf16(sums, left.high, right.high);
}

// Rows [row, row + 16) by columns [column, column + 16) in shared memory, as
// two right factors of 8 columns that are summed over rows, or as a left one.
template <int kRows, int kStride>
__device__ void LoadRight(const Halves<kRows, kStride>& values, int row,
                          int column, RightFactor (&factors)[2]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int at = (row + lane % 16) * kStride + column + lane / 16 * 8;
  uint32_t high[4], low[4];
  LoadTurned(high, values.high + at);
  LoadTurned(low, values.low + at);
  factors[0] = {{high[0], high[1]}, {low[0], low[1]}};
  factors[1] = {{high[2], high[3]}, {low[2], low[3]}};
}
template <int kRows, int kStride>
__device__ LeftFactor LoadLeft(const Halves<kRows, kStride>& values, int row,
                               int column) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int at =
      (row + lane % 8 + lane / 16 * 8) * kStride + column + lane / 8 % 2 * 8;
  LeftFactor factor;
  LoadTurned(factor.high, values.high + at);
  LoadTurned(factor.low, values.low + at);
  return factor;
}

}  // namespace engram::cuda
