// An item is one row by kItemChannels channels. A tile of a few tokens stays in
// registers while the taps run over it: one accumulator per output element,
// from the oldest input to the newest, whatever the tile.
//
// Memory per token and channel: reads 8 bytes (k, v) and writes 4 (p); the
// other taps find their inputs and the filter in the cache. Per row and channel
// the state is read and written once, 8 (taps - 1) bytes.
#include "kernels/cpu/shift_multiply.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/shift_multiply.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(FloatTag());
constexpr int64_t kTileTokens = 8;

// One row's inputs on one time axis: 0 is its first token, and the taps - 1
// tokens of the state lie before it.
struct Timeline {
  const float* k;
  int64_t k_stride;
  float* state;  // oldest first
  int64_t state_tokens;
  int64_t channels;

  const float* Given(int64_t time) const { return k + time * k_stride; }
  const float* Kept(int64_t time) const {
    return state + (state_tokens + time) * channels;
  }
  const float* At(int64_t time) const {
    return time >= 0 ? Given(time) : Kept(time);
  }
};

// kTokens tokens from `time` on, of the vector of channels at `channel`.
template <int64_t kTokens, bool kWhole>
HWY_INLINE void Tile(const ShiftMultiplyArguments& arguments, const Row& row,
                     const Timeline& inputs, int64_t time, int64_t channel,
                     size_t count) {
  FloatVector sums[kTokens];
  for (int64_t i = 0; i < kTokens; ++i) sums[i] = Constant(0.0f);
  const auto add = [&](int64_t tap, auto input) HWY_ATTR {
    const FloatVector weight = LoadPart<kWhole>(
        arguments.filter + tap * arguments.channels + channel, count);
    for (int64_t i = 0; i < kTokens; ++i) {
      sums[i] = hn::MulAdd(
          weight, LoadPart<kWhole>(input(tap, i) + channel, count), sums[i]);
    }
  };
  const int64_t first = time - inputs.state_tokens;  // input of the first tap
  const auto kept = [&](int64_t tap, int64_t i) HWY_ATTR {
    return inputs.Kept(first + tap + i);
  };
  const auto either = [&](int64_t tap, int64_t i) HWY_ATTR {
    return inputs.At(first + tap + i);
  };
  const auto given = [&](int64_t tap, int64_t i) HWY_ATTR {
    return inputs.Given(first + tap + i);
  };
  int64_t tap = 0;
  for (; first + tap + kTokens <= 0; ++tap) add(tap, kept);
  for (; first + tap < 0 && tap < arguments.taps; ++tap) add(tap, either);
  for (; tap < arguments.taps; ++tap) add(tap, given);

  for (int64_t i = 0; i < kTokens; ++i) {
    const int64_t token = row.offset + time + i;
    const FloatVector v = LoadPart<kWhole>(
        arguments.v.data + token * arguments.v.stride + channel, count);
    StorePart<kWhole>(
        hn::Mul(sums[i], v),
        arguments.p.data + token * arguments.p.stride + channel, count);
  }
}

template <bool kWhole>
HWY_INLINE void Vector(const ShiftMultiplyArguments& arguments, const Row& row,
                       const Timeline& inputs, int64_t channel, size_t count) {
  int64_t time = 0;
  for (; time + kTileTokens <= row.tokens; time += kTileTokens) {
    Tile<kTileTokens, kWhole>(arguments, row, inputs, time, channel, count);
  }
  for (; time < row.tokens; ++time) {
    Tile<1, kWhole>(arguments, row, inputs, time, channel, count);
  }
}

void ShiftMultiplyItem(const ShiftMultiplyArguments& arguments, const Row& row,
                       int64_t channel_begin, int64_t channel_end) {
  const int64_t state_tokens = arguments.taps - 1;
  const Timeline inputs{
      arguments.k.data + row.offset * arguments.k.stride, arguments.k.stride,
      arguments.shift_state + row.slot * state_tokens * arguments.channels,
      state_tokens, arguments.channels};
  int64_t channel = channel_begin;
  for (; channel + kLanes <= channel_end; channel += kLanes) {
    Vector<true>(arguments, row, inputs, channel, kLanes);
  }
  if (channel < channel_end) {
    Vector<false>(arguments, row, inputs, channel, channel_end - channel);
  }
  // In ascending order a row shorter than the state shifts in place.
  for (int64_t j = 0; j < state_tokens; ++j) {
    std::memmove(inputs.state + j * arguments.channels + channel_begin,
                 inputs.At(row.tokens - state_tokens + j) + channel_begin,
                 (channel_end - channel_begin) * sizeof(float));
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {
namespace {

HWY_EXPORT(ShiftMultiplyItem);

constexpr int64_t kItemChannels = 64;
// Multiplications below which waking a thread costs more than it saves.
constexpr int64_t kParallelWork = 1 << 16;

}  // namespace

void ShiftMultiply(ThreadPool& threads, Rows rows,
                   const ShiftMultiplyArguments& arguments) {
  const int64_t blocks =
      (arguments.channels + kItemChannels - 1) / kItemChannels;
  const int64_t items = static_cast<int64_t>(rows.size()) * blocks;
  const auto body = [&](int64_t item) {
    const int64_t channel = item % blocks * kItemChannels;
    HWY_DYNAMIC_DISPATCH(ShiftMultiplyItem)
    (arguments, rows[item / blocks], channel,
     std::min(channel + kItemChannels, arguments.channels));
  };
  int64_t tokens = 0;
  for (const Row& row : rows) tokens += row.tokens;
  if (tokens * arguments.channels * arguments.taps < kParallelWork) {
    for (int64_t item = 0; item < items; ++item) body(item);
  } else {
    threads.ParallelFor(items, body);
  }
}

}  // namespace engram::cpu
#endif  // HWY_ONCE
