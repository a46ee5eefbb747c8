// An item is one row by kItemChannels channels. A tile of a few tokens stays in
// registers while the taps run over it: one accumulator per output element,
// from the oldest input to the newest, whatever the tile.
//
// Memory per token and channel: reads 8 bytes (k, v) and writes 4 (p); the
// other taps find their inputs and the filter in the cache. Per row and channel
// the state is read once, 4 (taps - 1) bytes, and 4 are written per token.
#include "kernels/cpu/shift_multiply.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/row_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/shift_multiply.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(FloatTag());
// Sums and inputs of a tile of tokens, or sums of one token and several vectors
// of channels, fill the registers.
constexpr bool kManyRegisters = HWY_MAX_BYTES == 64 || HWY_ARCH_ARM;
constexpr int64_t kTileTokens = kManyRegisters ? 8 : 6;
constexpr int64_t kTileVectors = 4;

// One row's inputs on one time axis: 0 is its first token, and the taps - 1
// tokens of the state lie before it.
struct Timeline {
  const float* k;
  int64_t k_stride;
  const float* state;  // a ring
  int64_t state_tokens;
  int64_t channels;
  int64_t place;  // in the ring, of time 0

  const float* At(int64_t time) const {
    return time >= 0 ? k + time * k_stride : state + Place(time) * channels;
  }
  // Of -state_tokens <= time < 0.
  int64_t Place(int64_t time) const {
    const int64_t at = place + time;
    return at >= 0 ? at : at + state_tokens;
  }
};

// kTokens tokens from `time` on, of kVectors vectors of channels from `channel`
// on. If not kWhole, the one vector has `count` channels.
//
// From one tap to the next each token's input becomes that of the token before
// it: one more is loaded, the others stay in the registers.
template <int64_t kTokens, int64_t kVectors, bool kWhole>
HWY_INLINE void Tile(const ShiftMultiplyArguments& arguments, const Row& row,
                     const Timeline& inputs, int64_t time, int64_t channel,
                     size_t count) {
  const int64_t first = time - inputs.state_tokens;  // input of the first tap
  FloatVector sums[kTokens][kVectors], window[kTokens][kVectors];
  for (int64_t i = 0; i < kTokens; ++i) {
    const float* const k = inputs.At(first + i) + channel;
    for (int64_t v = 0; v < kVectors; ++v) {
      sums[i][v] = Constant(0.0f);
      window[i][v] = LoadPart<kWhole>(k + v * kLanes, count);
    }
  }
  const float* filter = arguments.filter + channel;
  for (int64_t tap = 0;; filter += arguments.channels) {
    for (int64_t v = 0; v < kVectors; ++v) {
      const FloatVector weight = LoadPart<kWhole>(filter + v * kLanes, count);
      for (int64_t i = 0; i < kTokens; ++i) {
        sums[i][v] = hn::MulAdd(weight, window[i][v], sums[i][v]);
      }
    }
    if (++tap == arguments.taps) break;
    const float* const k = inputs.At(first + tap + kTokens - 1) + channel;
    for (int64_t v = 0; v < kVectors; ++v) {
      for (int64_t i = 0; i + 1 < kTokens; ++i) window[i][v] = window[i + 1][v];
      window[kTokens - 1][v] = LoadPart<kWhole>(k + v * kLanes, count);
    }
  }
  for (int64_t i = 0; i < kTokens; ++i) {
    const int64_t token = row.offset + time + i;
    const float* const v_row =
        arguments.v.floats() + token * arguments.v.stride + channel;
    float* const p =
        arguments.p.floats() + token * arguments.p.stride + channel;
    for (int64_t v = 0; v < kVectors; ++v) {
      const FloatVector factor = LoadPart<kWhole>(v_row + v * kLanes, count);
      StorePart<kWhole>(hn::Mul(sums[i][v], factor), p + v * kLanes, count);
    }
  }
}

// All of the row's tokens that fill tiles, then the others one by one.
template <int64_t kVectors, bool kWhole>
HWY_INLINE void Vectors(const ShiftMultiplyArguments& arguments, const Row& row,
                        const Timeline& inputs, int64_t channel, size_t count) {
  const int64_t tiled = row.tokens / kTileTokens * kTileTokens;
  for (int64_t v = 0; v < kVectors; ++v) {
    for (int64_t time = 0; time < tiled; time += kTileTokens) {
      Tile<kTileTokens, 1, kWhole>(arguments, row, inputs, time,
                                   channel + v * kLanes, count);
    }
  }
  for (int64_t time = tiled; time < row.tokens; ++time) {
    Tile<1, kVectors, kWhole>(arguments, row, inputs, time, channel, count);
  }
}

// Leaves the row's last inputs in the ring of its slot.
void KeepInputs(const ShiftMultiplyArguments& arguments, const Row& row,
                const Timeline& inputs, int64_t channel_begin,
                int64_t channel_end) {
  const int64_t ring = inputs.state_tokens;
  float* const state = arguments.shift_state[row.slot_out];
  const int64_t first = row.tokens - ring;
  const bool in_place = row.slot_in == row.slot_out;
  for (int64_t time = in_place ? std::max<int64_t>(first, 0) : first;
       time < row.tokens; ++time) {
    const int64_t place =
        time < 0 ? inputs.Place(time) : (inputs.place + time) % ring;
    std::memcpy(state + place * arguments.channels + channel_begin,
                inputs.At(time) + channel_begin,
                (channel_end - channel_begin) * sizeof(float));
  }
}

void ShiftMultiplyItem(const ShiftMultiplyArguments& arguments, const Row& row,
                       int64_t channel_begin, int64_t channel_end) {
  const int64_t state_tokens = arguments.taps - 1;
  const Timeline inputs{arguments.k.floats() + row.offset * arguments.k.stride,
                        arguments.k.stride,
                        arguments.shift_state[row.slot_in],
                        state_tokens,
                        arguments.channels,
                        state_tokens == 0 ? 0 : row.position % state_tokens};
  int64_t channel = channel_begin;
  constexpr int64_t kTileChannels = kTileVectors * kLanes;
  for (; channel + kTileChannels <= channel_end; channel += kTileChannels) {
    Vectors<kTileVectors, true>(arguments, row, inputs, channel, kLanes);
  }
  for (; channel + kLanes <= channel_end; channel += kLanes) {
    Vectors<1, true>(arguments, row, inputs, channel, kLanes);
  }
  if (channel < channel_end) {
    Vectors<1, false>(arguments, row, inputs, channel, channel_end - channel);
  }
  if (state_tokens > 0) {
    KeepInputs(arguments, row, inputs, channel_begin, channel_end);
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
// Of one tap of one channel and token; most of it moves the state.
constexpr double kTapNs = 0.15;

}  // namespace

void ShiftMultiply(ThreadPool& threads, const StepRows& step,
                   const ShiftMultiplyArguments& arguments) {
  ForEachRowAndChannels(
      threads, step, arguments.channels, kItemChannels,
      kTapNs * static_cast<double>(arguments.channels * arguments.taps),
      [&](const Row& row, int64_t channel_begin, int64_t channel_end) {
        HWY_DYNAMIC_DISPATCH(ShiftMultiplyItem)
        (arguments, row, channel_begin, channel_end);
      });
}

}  // namespace engram::cpu
#endif  // HWY_ONCE
