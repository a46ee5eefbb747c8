// WarpSum: a sum over the threads of a warp in one order.
#pragma once

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

}  // namespace engram::cuda
