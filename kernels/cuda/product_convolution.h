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

// What the convolution of a token and of neighbouring channels takes from
// memory beside the newest input, from the bias on by fused multiply-adds from
// the oldest input to that one, as causal_conv1d.cu. Fetched in two steps, so
// that a kernel can do it before it has that input:
//
//   Find     of the token's row
//   Fetch    of its state, which takes what was found
//   Convolve
//
// There are as many rows as tokens, of which some may have none when a recorded
// graph is run; tokens behind those of their row get nothing.
template <int kChannels>
class TokenWindow {
 public:
  __device__ void Find(const ProductConvolution& convolution, int64_t token) {
    const StepTable& step = convolution.step;
    // A row without tokens moves its state, by the token of its number.
    const StepRow same = RowAt(step, token);
    keeps_ = same.tokens == 0 && same.slot_in != same.slot_out;
    token_ = static_cast<int>(token);
    row_ = Load(step.row_of_token + token);
  }

  __device__ void Fetch(const ProductConvolution& convolution,
                        int64_t channel) {
    const StepRow row = RowAt(convolution.step, row_);
    has_token_ = token_ - row.offset < row.tokens;
    in_ = ShareAt(convolution.state, row.slot_in) + channel;
    out_ = ShareAt(convolution.state, row.slot_out) + channel;
    if (!has_token_ || convolution.taps != kUsualTaps) return;
#pragma unroll
    for (int j = 0; j + 1 < kUsualTaps; ++j) {
      inputs_[j] = Load(ValuesAt<kChannels>(in_ + j * convolution.channels));
    }
  }

  // *y with `x` as the newest input, and the state of the row's slot.
  __device__ void Convolve(const ProductConvolution& convolution,
                           int64_t channel, const Values<kChannels>& x,
                           float* y) {
    if (keeps_) Keep(convolution, channel);
    if (!has_token_) return;
    Values<kChannels> sum = {};
    if (convolution.bias != nullptr) {
      sum = LoadConstant(ValuesAt<kChannels>(convolution.bias + channel));
    }
    if (convolution.taps == kUsualTaps) {
      AddUsual(convolution, channel, x, sum);
    } else {
      AddAny(convolution, channel, x, sum);
    }
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      sum.of[i] = Activate(convolution.activation, sum.of[i]);
    }
    Store(ValuesAt<kChannels>(y), sum);
  }

 private:
  // Taps whose inputs are fetched ahead.
  static constexpr int kUsualTaps = 4;

  __device__ void Keep(const ProductConvolution& convolution,
                       int64_t channel) const {
    const StepRow row = RowAt(convolution.step, token_);
    const float* const in = ShareAt(convolution.state, row.slot_in) + channel;
    float* const out = ShareAt(convolution.state, row.slot_out) + channel;
    for (int64_t j = 0; j + 1 < convolution.taps; ++j) {
      Store(ValuesAt<kChannels>(out + j * convolution.channels),
            Load(ValuesAt<kChannels>(in + j * convolution.channels)));
    }
  }

  __device__ static void AddTap(const ProductConvolution& convolution,
                                int64_t tap, int64_t channel,
                                const Values<kChannels>& input,
                                Values<kChannels>& sum) {
    const Values<kChannels> weight = LoadConstant(ValuesAt<kChannels>(
        convolution.weight + tap * convolution.channels + channel));
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      sum.of[i] = fmaf(weight.of[i], input.of[i], sum.of[i]);
    }
  }

  __device__ void AddUsual(const ProductConvolution& convolution,
                           int64_t channel, const Values<kChannels>& x,
                           Values<kChannels>& sum) const {
#pragma unroll
    for (int j = 0; j < kUsualTaps; ++j) {
      const Values<kChannels>& input = j + 1 < kUsualTaps ? inputs_[j] : x;
      AddTap(convolution, j, channel, input, sum);
      if (j == 0) continue;
      Store(ValuesAt<kChannels>(out_ + (j - 1) * convolution.channels), input);
    }
  }
  // Where slots are the same, an input moves to a place that has been read.
  __device__ void AddAny(const ProductConvolution& convolution, int64_t channel,
                         const Values<kChannels>& x,
                         Values<kChannels>& sum) const {
    for (int64_t j = 0; j < convolution.taps; ++j) {
      const Values<kChannels> input =
          j + 1 < convolution.taps
              ? Load(ValuesAt<kChannels>(in_ + j * convolution.channels))
              : x;
      AddTap(convolution, j, channel, input, sum);
      if (j == 0) continue;
      Store(ValuesAt<kChannels>(out_ + (j - 1) * convolution.channels), input);
    }
  }

  bool keeps_ = false;
  bool has_token_ = false;
  int token_ = 0;
  int32_t row_ = 0;
  const float* in_ = nullptr;
  float* out_ = nullptr;
  Values<kChannels> inputs_[kUsualTaps - 1] = {};
};

}  // namespace engram::cuda
