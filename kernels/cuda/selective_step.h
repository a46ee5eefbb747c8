// One token of Mamba's selective scan, for all kernels that go through tokens:
// whoever does it, the bits are the same.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/device.h"
#include "kernels/operations.h"

namespace engram::cuda {

// What is the same for all states of a channel at a token.
struct SelectiveInputs {
  float x, delta;
};

__device__ inline float SelectiveDelta(const SelectiveScanArguments& arguments,
                                       float dt, int64_t channel) {
  return Softplus(dt + LoadConstant(arguments.dt_bias + channel));
}

// A state goes on by a token.
__device__ inline void AdvanceSelective(const SelectiveInputs& inputs, float a,
                                        float b, float& h) {
  h = fmaf(Exp(inputs.delta * a), h, b * (inputs.delta * inputs.x));
}

// y, with the sum over all states and silu of the gate.
__device__ inline float SelectiveOutput(float x, float d, float sum,
                                        float gate) {
  return fmaf(d, x, sum) * gate;
}

}  // namespace engram::cuda
