// A thread computes one channel, from the oldest tap to the newest
// (channel_kernels.h). The inputs of neighbouring tokens move through its
// registers while the taps run.
//
// Memory per token and channel: reads 8 bytes (k, v) and writes 4 (p); the
// filter, and what neighbouring tokens read again, come from the first-level
// cache. Per row and channel the state is read once, 4 (taps - 1) bytes, and 4
// are written per token.
#include <cmath>

#include "kernels/cuda/channel_kernels.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/shift_multiply.h"
#include "kernels/cuda/shift_step.h"

namespace engram::cuda {
namespace {

// One channel of a row's inputs on one time axis: 0 is its first token, and the
// taps - 1 tokens of the state lie before it.
struct Timeline {
  const float* k;
  int64_t k_stride;
  const float* state;  // a ring
  int64_t ring;        // its tokens
  int64_t channels;
  int64_t place;   // in the ring, of time 0
  int64_t tokens;  // of the row

  // Behind the row's last token: zero.
  __device__ float At(int64_t time) const {
    if (time >= tokens) return 0.0f;
    return Load(time >= 0 ? k + time * k_stride
                          : state + Place(time) * channels);
  }
  // Of -ring <= time < 0.
  __device__ int64_t Place(int64_t time) const {
    const int64_t at = place + time;
    return at >= 0 ? at : at + ring;
  }
};

__device__ Timeline TimelineOf(const ShiftMultiplyArguments& arguments,
                               const StepRow& row, int64_t channel) {
  const int64_t ring = arguments.taps - 1;
  return {At(arguments.k, row.offset, channel),
          arguments.k.stride,
          ShareAt(arguments.shift_state, row.slot_in) + channel,
          ring,
          arguments.channels,
          ring == 0 ? 0 : row.position % ring,
          row.tokens};
}

// p of the kTokens tokens from `time` on, or as many as the row has. From one
// tap to the next each token's input becomes that of the token before it.
template <int kTokens>
__device__ void Multiply(const ShiftMultiplyArguments& arguments,
                         const StepRow& row, const Timeline& inputs,
                         int64_t time, int64_t channel) {
  const int64_t first = time - inputs.ring;  // input of the first tap
  float sums[kTokens], window[kTokens];
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    sums[i] = 0.0f;
    window[i] = inputs.At(first + i);
  }
  for (int64_t tap = 0; tap < arguments.taps; ++tap) {
    const float weight =
        LoadConstant(arguments.filter + tap * arguments.channels + channel);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      sums[i] = AddTap(weight, window[i], sums[i]);
    }
#pragma unroll
    for (int i = 0; i + 1 < kTokens; ++i) window[i] = window[i + 1];
    window[kTokens - 1] =
        tap + 1 < arguments.taps ? inputs.At(first + tap + kTokens) : 0.0f;
  }
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    if (time + i >= row.tokens) continue;
    const int64_t token = row.offset + time + i;
    Store(At(arguments.p, token, channel),
          ShiftOutput(sums[i], Load(At(arguments.v, token, channel))));
  }
}

// Leaves the row's last inputs in the ring of its slot; where that is another
// than they came from, all that still count.
__device__ void KeepInputs(const ShiftMultiplyArguments& arguments,
                           const StepRow& row, const Timeline& inputs,
                           int64_t channel) {
  if (inputs.ring == 0) return;
  float* const state = ShareAt(arguments.shift_state, row.slot_out) + channel;
  int64_t time = row.tokens - inputs.ring;
  if (row.slot_in == row.slot_out && time < 0) time = 0;
  for (; time < row.tokens; ++time) {
    const int64_t place =
        time < 0 ? inputs.Place(time) : (inputs.place + time) % inputs.ring;
    Store(state + place * arguments.channels, inputs.At(time));
  }
}

// Everything of a row and a channel. Meant for rows of a token, right for all.
__global__ void __launch_bounds__(kChannelThreads)
    MultiplyRows(StepTable step, ShiftMultiplyArguments arguments) {
  GridWait();
  GridTrigger();
  const int64_t channel = ThisChannel();
  if (channel >= arguments.channels) return;
  const StepRow row = RowAt(step, blockIdx.y);
  const Timeline inputs = TimelineOf(arguments, row, channel);
  for (int64_t time = 0; time < row.tokens; ++time) {
    Multiply<1>(arguments, row, inputs, time, channel);
  }
  KeepInputs(arguments, row, inputs, channel);
}

// kTileTokens tokens, of one row or of several.
__global__ void __launch_bounds__(kChannelThreads)
    MultiplyTokens(StepTable step, ShiftMultiplyArguments arguments) {
  GridWait();
  GridTrigger();
  const int64_t channel = ThisChannel();
  if (channel >= arguments.channels) return;
  const int64_t first = int64_t{blockIdx.y} * kTileTokens;
  const int64_t end = first + kTileTokens < step.token_count
                          ? first + kTileTokens
                          : step.token_count;
  for (int64_t token = first; token < end;) {
    StepRow row = RowAt(step, Load(step.row_of_token + token));
    const int64_t time = token - row.offset;
    // The tile's part of the row. Its other tokens are another thread's.
    if (row.offset + row.tokens > end) {
      row.tokens = static_cast<int32_t>(end - row.offset);
    }
    if (time < row.tokens) {
      Multiply<kTileTokens>(arguments, row, TimelineOf(arguments, row, channel),
                            time, channel);
    }
    token = time < row.tokens ? row.offset + row.tokens : token + 1;
  }
}

__global__ void __launch_bounds__(kChannelThreads)
    KeepInputsOfRows(StepTable step, ShiftMultiplyArguments arguments) {
  GridWait();
  GridTrigger();
  const int64_t channel = ThisChannel();
  if (channel >= arguments.channels) return;
  const StepRow row = RowAt(step, blockIdx.y);
  KeepInputs(arguments, row, TimelineOf(arguments, row, channel), channel);
}

}  // namespace

cudaError_t ShiftMultiply(cudaStream_t stream, const StepTable& step,
                          const ShiftMultiplyArguments& arguments) {
  if (step.row_count == 0) return cudaSuccess;
  return LaunchByChannels<ShiftMultiplyArguments>(
      stream, step, arguments, arguments.taps > 1,
      {MultiplyRows, MultiplyTokens, KeepInputsOfRows});
}

}  // namespace engram::cuda
