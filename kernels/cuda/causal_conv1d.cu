// A thread computes one channel, or two beside each other where their values
// can be loaded together, from the bias on by fused multiply-adds from the
// oldest input to the newest (channel_kernels.h). In longer rows it has a few
// tokens, whose inputs it loads once, all of them before the first sum.
//
// Memory per token and channel: reads 4 bytes and writes 4; per row and channel
// 8 (d_conv - 1) bytes of the state. What the tokens of another thread read
// again, d_conv - 1 of 8 tokens' inputs, is in the second-level cache.
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
template <int kChannels>
__device__ Values<kChannels> InputAt(const CausalConv1dArguments& arguments,
                                     const StepRow& row, int64_t time,
                                     int64_t channel) {
  const int64_t place = arguments.d_conv - 1 + time;
  const float* const input = time >= 0
                                 ? At(arguments.x, row.offset + time, channel)
                                 : ShareAt(arguments.conv_state, row.slot_in) +
                                       place * arguments.channels + channel;
  return Load(ValuesAt<kChannels>(input));
}

// The filters of neighbouring channels. kTaps: d_conv, or 0 for any.
template <int kTaps, int kChannels>
class Filter {
 public:
  __device__ Filter(const CausalConv1dArguments& arguments, int64_t channel)
      : arguments_(arguments), channel_(channel) {
    if (arguments.bias != nullptr) {
      bias_ = LoadConstant(ValuesAt<kChannels>(arguments.bias + channel));
    }
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) taps_[tap] = LoadTap(tap);
  }

  // y of the row's tokens from `time` on: of `count` of them, which is at most
  // kTokens.
  template <int kTokens>
  __device__ void Convolve(const StepRow& row, int64_t time, int count) const {
    if constexpr (kTaps > 0) {
      Values<kChannels> inputs[kTaps - 1 + kTokens];
#pragma unroll
      for (int i = 0; i < kTaps - 1 + kTokens; ++i) {
        if (i - (kTaps - 1) < count) inputs[i] = Input(row, time, i);
      }
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        if (i >= count) continue;
        Values<kChannels> sum = bias_;
#pragma unroll
        for (int tap = 0; tap < kTaps; ++tap) {
          AddTap(taps_[tap], inputs[i + tap], sum);
        }
        StoreSum(row.offset + time + i, sum);
      }
    } else {
      for (int i = 0; i < count; ++i) {
        Values<kChannels> sum = bias_;
        for (int64_t tap = 0; tap < arguments_.d_conv; ++tap) {
          AddTap(LoadTap(tap), Input(row, time, i + tap), sum);
        }
        StoreSum(row.offset + time + i, sum);
      }
    }
  }

 private:
  // The i-th of those from the first tap's at `time` on.
  __device__ Values<kChannels> Input(const StepRow& row, int64_t time,
                                     int64_t i) const {
    return InputAt<kChannels>(arguments_, row,
                              time - (arguments_.d_conv - 1) + i, channel_);
  }
  __device__ Values<kChannels> LoadTap(int64_t tap) const {
    return LoadConstant(ValuesAt<kChannels>(
        arguments_.weight + tap * arguments_.channels + channel_));
  }
  __device__ static void AddTap(const Values<kChannels>& tap,
                                const Values<kChannels>& input,
                                Values<kChannels>& sum) {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      sum.of[i] = fmaf(tap.of[i], input.of[i], sum.of[i]);
    }
  }
  __device__ void StoreSum(int64_t token, Values<kChannels> sum) const {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      // There are no others.
      if (arguments_.activation == Activation::kSilu) {
        sum.of[i] = Silu(sum.of[i]);
      }
    }
    Store(ValuesAt<kChannels>(At(arguments_.y, token, channel_)), sum);
  }

  const CausalConv1dArguments& arguments_;
  const int64_t channel_;
  Values<kChannels> bias_ = {};
  Values<kChannels> taps_[kTaps > 0 ? kTaps : 1];
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
          InputAt<1>(arguments, row, row.tokens - window + j, channel).of[0]);
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
  const Filter<kTaps, 1> filter(arguments, channel);
  for (int64_t time = 0; time < row.tokens; ++time) {
    filter.template Convolve<1>(row, time, 1);
  }
  KeepInputs(arguments, row, channel);
}

// kTileTokens tokens, of one row or of several.
template <int kTaps, int kChannels>
__global__ void __launch_bounds__(kChannelThreads)
    ConvolveTokens(StepTable step, CausalConv1dArguments arguments) {
  GridWait();
  GridTrigger();
  const int64_t channel = ThisChannel() * kChannels;
  if (channel >= arguments.channels) return;
  const Filter<kTaps, kChannels> filter(arguments, channel);
  const int64_t first = int64_t{blockIdx.y} * kTileTokens;
  const int64_t end = first + kTileTokens < step.token_count
                          ? first + kTileTokens
                          : step.token_count;
  for (int64_t token = first; token < end;) {
    const StepRow row = RowAt(step, Load(step.row_of_token + token));
    const int64_t end_of_row = row.offset + row.tokens;
    const int count =
        static_cast<int>((end_of_row < end ? end_of_row : end) - token);
    filter.template Convolve<kTileTokens>(row, token - row.offset, count);
    // Behind the tokens of its row there is one that nobody reads.
    token += count > 0 ? count : 1;
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

// Whether two neighbouring channels, the first an even one, can be loaded and
// stored together.
bool CanTakePairs(const CausalConv1dArguments& arguments) {
  return arguments.channels % 2 == 0 && ArePairsAligned(arguments.x) &&
         ArePairsAligned(arguments.y) && ArePairsAligned(arguments.weight) &&
         ArePairsAligned(arguments.bias) &&
         ArePairsAligned(arguments.conv_state);
}

template <int kTaps>
cudaError_t Convolve(cudaStream_t stream, const StepTable& step,
                     const CausalConv1dArguments& arguments) {
  ChannelKernels<CausalConv1dArguments> kernels = {
      ConvolveRows<kTaps>, ConvolveTokens<kTaps, 1>, KeepInputsOfRows};
  if (CanTakePairs(arguments)) {
    kernels.tokens = ConvolveTokens<kTaps, 2>;
    kernels.token_channels = 2;
  }
  return LaunchByChannels(stream, step, arguments, arguments.d_conv > 1,
                          kernels);
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
