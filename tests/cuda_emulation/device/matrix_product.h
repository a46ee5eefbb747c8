// MultiplyAdd: the matrix product that a warp's lanes compute together.
#pragma once

#include <cstdint>

namespace engram::emulation {

// What one lane holds of m16n8k16, laid out as kernels/cuda/device.h says.
struct MatrixOperands {
  uint32_t a[4];
  uint32_t b[2];
  float acc[4];
};

// acc += a b for all 32 lanes, values of float16 or else of bfloat16. Sums are
// over k in ascending order in float32; `fused` as fused_sum.h says, where all
// values are finite.
void MultiplyAdd(bool is_float16, bool fused, MatrixOperands* lanes);

}  // namespace engram::emulation
