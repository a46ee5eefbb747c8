// The convolution of one token as the end of a product, whose sum is its newest
// input.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/product_fusions.h"
#include "kernels/cuda/row_data.h"

namespace engram::cuda {

// From the bias on by fused multiply-adds from the oldest input to `x`, as
// causal_conv1d.cu. kTaps: taps, or 0 for any.
template <int kTaps>
__device__ void ConvolveChannel(const ProductConvolution& convolution,
                                const StepRow& row, int64_t channel, float x,
                                float* y) {
  const int64_t channels = convolution.channels;
  const int64_t window = (kTaps > 0 ? kTaps : convolution.taps) - 1;
  const float* const in = ShareAt(convolution.state, row.slot_in) + channel;
  float* const out = ShareAt(convolution.state, row.slot_out) + channel;
  const float* const weight = convolution.weight + channel;
  float sum = convolution.bias == nullptr
                  ? 0.0f
                  : LoadConstant(convolution.bias + channel);
  // Where slots are the same, an input moves to a place that has been read.
#pragma unroll
  for (int64_t j = 0; j < window; ++j) {
    const float input = Load(in + j * channels);
    sum = fmaf(LoadConstant(weight + j * channels), input, sum);
    if (j > 0) Store(out + (j - 1) * channels, input);
  }
  if (window > 0) Store(out + (window - 1) * channels, x);
  sum = fmaf(LoadConstant(weight + window * channels), x, sum);
  Store(y, Activate(convolution.activation, sum));
}

// The state of a row without tokens goes where it is to be, unchanged.
__device__ inline void KeepChannel(const ProductConvolution& convolution,
                                   const StepRow& row, int64_t channel) {
  if (row.tokens > 0 || row.slot_in == row.slot_out) return;
  const float* const in = ShareAt(convolution.state, row.slot_in) + channel;
  float* const out = ShareAt(convolution.state, row.slot_out) + channel;
  for (int64_t j = 0; j + 1 < convolution.taps; ++j) {
    Store(out + j * convolution.channels, Load(in + j * convolution.channels));
  }
}

// *y and the state of a channel; nothing of tokens behind those of their row.
// There are as many rows as tokens, of which some may have none when a recorded
// graph is run.
__device__ inline void ConvolveOne(const ProductConvolution& convolution,
                                   int64_t token, int64_t channel, float x,
                                   float* y) {
  constexpr int kUsualTaps = 4;
  const StepTable& step = convolution.step;
  KeepChannel(convolution, RowAt(step, token), channel);
  const StepRow row = RowAt(step, Load(step.row_of_token + token));
  if (token - row.offset >= row.tokens) return;
  if (convolution.taps == kUsualTaps) {
    ConvolveChannel<kUsualTaps>(convolution, row, channel, x, y);
  } else {
    ConvolveChannel<0>(convolution, row, channel, x, y);
  }
}

}  // namespace engram::cuda
