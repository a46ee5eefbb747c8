// A thread computes one channel, from the bias on by fused multiply-adds from
// the oldest input to the newest (channel_kernels.h).
//
// Memory per token and channel: reads 4 bytes and writes 4; per row and channel
// 8 (d_conv - 1) bytes of the state. What neighbouring tokens read again is in
// the first-level cache.
#include <cmath>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/causal_conv1d.h"
#include "kernels/cuda/channel_kernels.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/row_data.h"

namespace engram::cuda {
namespace {

// Taps that are kept in registers; other numbers of them are loaded each time.
constexpr int kUsualTaps = 4;

// The input of a row's token `time`; those before the row are in its state.
__device__ float InputAt(const CausalConv1dArguments& arguments,
                         const StepRow& row, int64_t time, int64_t channel) {
  if (time >= 0) return Load(At(arguments.x, row.offset + time, channel));
  const int64_t place = arguments.d_conv - 1 + time;
  return Load(ShareAt(arguments.conv_state, row.slot_in) +
              place * arguments.channels + channel);
}

// One channel's filter. kTaps: d_conv, or 0 for any.
template <int kTaps>
class Filter {
 public:
  __device__ Filter(const CausalConv1dArguments& arguments, int64_t channel)
      : arguments_(arguments), channel_(channel) {
    bias_ = arguments.bias == nullptr ? 0.0f
                                      : LoadConstant(arguments.bias + channel);
    if constexpr (kTaps > 0) {
#pragma unroll
      for (int tap = 0; tap < kTaps; ++tap) taps_[tap] = LoadTap(tap);
    }
  }

  // y of the row's token `time`.
  __device__ void Convolve(const StepRow& row, int64_t time) const {
    float sum = bias_;
    if constexpr (kTaps > 0) {
#pragma unroll
      for (int tap = 0; tap < kTaps; ++tap) {
        sum = fmaf(taps_[tap],
                   InputAt(arguments_, row, time - (kTaps - 1) + tap, channel_),
                   sum);
      }
    } else {
      for (int64_t tap = 0; tap < arguments_.d_conv; ++tap) {
        const int64_t input = time - (arguments_.d_conv - 1) + tap;
        sum =
            fmaf(LoadTap(tap), InputAt(arguments_, row, input, channel_), sum);
      }
    }
    Store(At(arguments_.y, row.offset + time, channel_),
          Activate(arguments_.activation, sum));
  }

 private:
  __device__ float LoadTap(int64_t tap) const {
    return LoadConstant(arguments_.weight + tap * arguments_.channels +
                        channel_);
  }

  const CausalConv1dArguments& arguments_;
  const int64_t channel_;
  float bias_;
  float taps_[kTaps > 0 ? kTaps : 1];
};

// Leaves the row's last inputs in its slot. In ascending order a row that is
// shorter than the window shifts in place.
__device__ void KeepInputs(const CausalConv1dArguments& arguments,
                           const StepRow& row, int64_t channel) {
  if (row.tokens == 0 && row.slot_in == row.slot_out) return;
  const int64_t window = arguments.d_conv - 1;
  float* const state = ShareAt(arguments.conv_state, row.slot_out) + channel;
  for (int64_t j = 0; j < window; ++j) {
    Store(state + j * arguments.channels,
          InputAt(arguments, row, row.tokens - window + j, channel));
  }
}

// Everything of a row and a channel. Meant for rows of a token, right for all.
template <int kTaps>
__global__ void __launch_bounds__(kChannelThreads)
    ConvolveRows(StepTable step, CausalConv1dArguments arguments) {
  GridWait();
  GridTrigger();
  const int64_t channel = ThisChannel();
  if (channel >= arguments.channels) return;
  const StepRow row = RowAt(step, blockIdx.y);
  const Filter<kTaps> filter(arguments, channel);
  for (int64_t time = 0; time < row.tokens; ++time) filter.Convolve(row, time);
  KeepInputs(arguments, row, channel);
}

// kTileTokens tokens, of one row or of several.
template <int kTaps>
__global__ void __launch_bounds__(kChannelThreads)
    ConvolveTokens(StepTable step, CausalConv1dArguments arguments) {
  GridWait();
  GridTrigger();
  const int64_t channel = ThisChannel();
  if (channel >= arguments.channels) return;
  const Filter<kTaps> filter(arguments, channel);
  const int64_t first = int64_t{blockIdx.y} * kTileTokens;
  for (int64_t token = first;
       token < first + kTileTokens && token < step.token_count; ++token) {
    const StepRow row = RowAt(step, Load(step.row_of_token + token));
    const int64_t time = token - row.offset;
    if (time < row.tokens) filter.Convolve(row, time);
  }
}

__global__ void __launch_bounds__(kChannelThreads)
    KeepInputsOfRows(StepTable step, CausalConv1dArguments arguments) {
  GridWait();
  GridTrigger();
  const int64_t channel = ThisChannel();
  if (channel >= arguments.channels) return;
  KeepInputs(arguments, RowAt(step, blockIdx.y), channel);
}

template <int kTaps>
cudaError_t Convolve(cudaStream_t stream, const StepTable& step,
                     const CausalConv1dArguments& arguments) {
  return LaunchByChannels<CausalConv1dArguments>(
      stream, step, arguments, arguments.d_conv > 1,
      {ConvolveRows<kTaps>, ConvolveTokens<kTaps>, KeepInputsOfRows});
}

}  // namespace

cudaError_t CausalConv1d(cudaStream_t stream, const StepTable& step,
                         const CausalConv1dArguments& arguments) {
  if (step.row_count == 0) return cudaSuccess;
  return arguments.d_conv == kUsualTaps
             ? Convolve<kUsualTaps>(stream, step, arguments)
             : Convolve<0>(stream, step, arguments);
}

}  // namespace engram::cuda
