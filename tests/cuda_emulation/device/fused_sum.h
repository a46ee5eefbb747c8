// FusedSum: how Hopper's tensor cores are said to add what one instruction
// multiplies.
#pragma once

namespace engram::emulation {

inline constexpr int kFusedProducts = 16;

// acc + Σ a[k] b[k] of kFusedProducts values of float16, or else of bfloat16,
// all finite: the products and the accumulator aligned to the largest exponent,
// 25 bits behind the point, what is below cut off, and so again where the sum
// becomes float32. Source: MMA-Sim, arXiv 2511.10909.
float FusedSum(bool is_float16, const float* a, const float* b, float acc);

}  // namespace engram::emulation
