// One token of the diagonal SSM of H3 and S4D, for all kernels that go through
// tokens: whoever does it, the bits are the same.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/device.h"
#include "kernels/operations.h"

namespace engram::cuda {

// A complex number.
struct Complex {
  float real, imaginary;
};

// Of one pair; `sum` gets what the pair adds to y, first that of its real part.
__device__ inline void AdvanceDiagonal(float p, Complex decay, Complex read,
                                       Complex& h, float& sum) {
  const float real =
      fmaf(decay.real, h.real, fmaf(-decay.imaginary, h.imaginary, p));
  const float imaginary =
      fmaf(decay.imaginary, h.real, decay.real * h.imaginary);
  sum = fmaf(read.real, real, sum);
  sum = fmaf(-read.imaginary, imaginary, sum);
  h = {real, imaginary};
}

// y before the gate, with the sum over all pairs.
__device__ inline float DiagonalOutput(const DiagonalScanArguments& arguments,
                                       float p, float d, float sum) {
  return Activate(arguments.activation, fmaf(d, p, sum));
}

// Of tensors [pairs, 2, channels], from a channel of a pair on.
__device__ inline Complex LoadPairWeight(const float* source,
                                         int64_t channels) {
  return {LoadConstant(source), LoadConstant(source + channels)};
}
__device__ inline Complex LoadPairState(const float* source, int64_t channels) {
  return {LoadStream(source), LoadStream(source + channels)};
}
__device__ inline void StorePairState(float* target, int64_t channels,
                                      Complex h) {
  StoreStream(target, h.real);
  StoreStream(target + channels, h.imaginary);
}

}  // namespace engram::cuda
