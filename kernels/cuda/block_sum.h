// WarpSum and BlockSum: sums over the threads of a warp and of a block, each in
// one order.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"

namespace engram::cuda {

// Σ of the lanes' `value`s, for all of them: by exchanges with the lanes 16, 8,
// 4, 2 and 1 away.
__device__ inline float WarpSum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = value + ShuffleXor(value, distance);
  }
  return value;
}

// Threads of a block that sums, and floats of shared memory that it needs.
constexpr int kSumThreads = 256;
constexpr int kSumWarps = kSumThreads / 32;

// Σ of the threads' `value`s, for all of them: WarpSum of each warp, then over
// the warps in ascending order. `partials` is shared memory of kSumWarps
// floats. REQUIRES: a block of kSumThreads.
__device__ inline float BlockSum(float value, float* partials) {
  value = WarpSum(value);
  // What an earlier sum left may still be read.
  BlockBarrier();
  if (threadIdx.x % 32 == 0) partials[threadIdx.x / 32] = value;
  BlockBarrier();
  float sum = partials[0];
#pragma unroll
  for (int warp = 1; warp < kSumWarps; ++warp) sum = sum + partials[warp];
  return sum;
}

}  // namespace engram::cuda
