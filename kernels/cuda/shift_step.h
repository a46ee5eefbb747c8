// What a token gets of the shift SSM of H3, for all kernels that compute it:
// whoever does it, the bits are the same. Taps are added from the oldest input
// to the newest, from zero on.
#pragma once

#include <cmath>

#include "kernels/cuda/device.h"

namespace engram::cuda {

__device__ inline float AddTap(float weight, float k, float sum) {
  return fmaf(weight, k, sum);
}

// p, with the sum over all taps.
__device__ inline float ShiftOutput(float sum, float v) { return sum * v; }

}  // namespace engram::cuda
