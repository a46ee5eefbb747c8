// An item is one row by kItemChannels channels, token by token. Per element it
// reads 4 bytes of x from memory (the other taps find theirs in the first-level
// cache) and writes 4 bytes of y; the window of a row is read and written once.
#include "kernels/cpu/causal_conv1d.h"

#include <cstdint>
#include <cstring>

#include "kernels/cpu/row_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/causal_conv1d.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(FloatTag());

// One row's inputs on one time axis: 0 is its first token, and the d_conv - 1
// tokens of the window lie before it.
struct Timeline {
  const float* x;
  int64_t x_stride;
  const float* window;  // oldest first
  int64_t window_tokens;
  int64_t channels;

  const float* At(int64_t time) const {
    return time >= 0 ? x + time * x_stride
                     : window + (window_tokens + time) * channels;
  }
};

// One token's output for the vector of channels at `channel`.
template <bool kWhole, bool kSilu>
HWY_INLINE void Convolve(const CausalConv1dArguments& arguments,
                         const Timeline& inputs, int64_t time, float* y,
                         int64_t channel, size_t count) {
  FloatVector sum = arguments.bias != nullptr
                        ? LoadPart<kWhole>(arguments.bias + channel, count)
                        : Constant(0.0f);
  for (int64_t j = 0; j < arguments.d_conv; ++j) {
    const float* const weight = arguments.weight + j * arguments.channels;
    const float* const x = inputs.At(time - inputs.window_tokens + j);
    sum = hn::MulAdd(LoadPart<kWhole>(weight + channel, count),
                     LoadPart<kWhole>(x + channel, count), sum);
  }
  if constexpr (kSilu) sum = Silu(sum);
  StorePart<kWhole>(sum, y + channel, count);
}

template <bool kSilu>
void ConvolveItem(const CausalConv1dArguments& arguments, const Row& row,
                  int64_t channel_begin, int64_t channel_end) {
  const int64_t window_tokens = arguments.d_conv - 1;
  const Timeline inputs{arguments.x.floats() + row.offset * arguments.x.stride,
                        arguments.x.stride, arguments.conv_state[row.slot_in],
                        window_tokens, arguments.channels};
  for (int64_t t = 0; t < row.tokens; ++t) {
    float* const y =
        arguments.y.floats() + (row.offset + t) * arguments.y.stride;
    int64_t channel = channel_begin;
    for (; channel + kLanes <= channel_end; channel += kLanes) {
      Convolve<true, kSilu>(arguments, inputs, t, y, channel, kLanes);
    }
    if (channel < channel_end) {
      Convolve<false, kSilu>(arguments, inputs, t, y, channel,
                             channel_end - channel);
    }
  }
  // In ascending order a row shorter than the window shifts in place.
  float* const window = arguments.conv_state[row.slot_out];
  for (int64_t j = 0; j < window_tokens; ++j) {
    std::memmove(window + j * arguments.channels + channel_begin,
                 inputs.At(row.tokens - window_tokens + j) + channel_begin,
                 (channel_end - channel_begin) * sizeof(float));
  }
}

void CausalConv1dItem(const CausalConv1dArguments& arguments, const Row& row,
                      int64_t channel_begin, int64_t channel_end) {
  if (arguments.activation == Activation::kSilu) {
    ConvolveItem<true>(arguments, row, channel_begin, channel_end);
  } else {
    ConvolveItem<false>(arguments, row, channel_begin, channel_end);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {
namespace {

HWY_EXPORT(CausalConv1dItem);

constexpr int64_t kItemChannels = 128;
// Of one channel of one token.
constexpr double kElementNs = 0.8;

}  // namespace

void CausalConv1d(ThreadPool& threads, const StepRows& step,
                  const CausalConv1dArguments& arguments) {
  ForEachRowAndChannels(
      threads, step, arguments.channels, kItemChannels,
      kElementNs * static_cast<double>(arguments.channels),
      [&](const Row& row, int64_t channel_begin, int64_t channel_end) {
        HWY_DYNAMIC_DISPATCH(CausalConv1dItem)
        (arguments, row, channel_begin, channel_end);
      });
}

}  // namespace engram::cpu
#endif  // HWY_ONCE
