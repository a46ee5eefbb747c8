// One token of Mamba-2's scan, for all kernels that go through tokens: whoever
// does it, the bits are the same. Delta and what x adds to y are those of
// chunks too.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/device.h"
#include "kernels/operations.h"

namespace engram::cuda {

// A channel's states are summed by eighths of ceil(d_state / 8) states, each in
// ascending order, and then as SumOfEighths does.
inline constexpr int kSsdEighths = 8;
__device__ inline int64_t StatesOfAnEighth(const SsdScanArguments& arguments) {
  return (arguments.d_state + kSsdEighths - 1) / kSsdEighths;
}

// ((e0 + e1) + (e2 + e3)) + ((e4 + e5) + (e6 + e7)), for neighbouring lanes
// that have one each.
__device__ inline float SumOfEighths(float eighth) {
  const float quarter = eighth + ShuffleXor(eighth, 1);
  const float half = quarter + ShuffleXor(quarter, 2);
  return half + ShuffleXor(half, 4);
}

__device__ inline int64_t GroupOf(const SsdScanArguments& arguments,
                                  int64_t head) {
  return head / (arguments.heads / arguments.groups);
}

// What a head does to its states at a token.
struct HeadStep {
  float delta, decay;
};

__device__ inline float SsdDelta(const SsdScanArguments& arguments, float dt,
                                 int64_t head) {
  const float delta = Softplus(dt + LoadConstant(arguments.dt_bias + head));
  // Comparisons rather than fminf and fmaxf: NaN stays NaN.
  const float at_least = delta < arguments.dt_min ? arguments.dt_min : delta;
  return at_least > arguments.dt_max ? arguments.dt_max : at_least;
}

__device__ inline HeadStep HeadStepOf(const SsdScanArguments& arguments,
                                      float dt, int64_t head) {
  const float delta = SsdDelta(arguments, dt, head);
  return {delta, Exp(delta * LoadConstant(arguments.a + head))};
}

// Of one state, where delta_x is the head's delta times x; `sum` gets what the
// state adds to y.
__device__ inline void AdvanceSsd(float decay, float delta_x, float b, float c,
                                  float& h, float& sum) {
  h = fmaf(decay, h, delta_x * b);
  sum = fmaf(c, h, sum);
}

// y, with the sum over all states.
__device__ inline float SsdOutput(float x, float d, float sum) {
  return fmaf(d, x, sum);
}

}  // namespace engram::cuda
