// How steps of Mamba-2's scan are dealt out to threads: a block has a row by
// some channels of a head, a thread a few neighbouring ones of them by an
// eighth of their states. The eighths of a channel are on neighbouring lanes.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/ssd_step.h"
#include "kernels/operations.h"

namespace engram::cuda {

inline constexpr int kSsdThreads = 128;
// As many of an eighth as a thread keeps in registers.
inline constexpr int kSsdLaneStates = 16;

// Which part of a row a thread has.
struct SsdPart {
  int64_t head;
  int64_t first_channel;  // of the block, in the head
  int64_t channel;        // the first of the thread, in the head
  int block_channel;      // and in the block
  int channels;           // fewer at the head's end, perhaps none
  int eighth;
  int64_t first_state;
  int states;
};

// Of a block, whose threads have so many each.
template <int kLaneChannels>
inline constexpr int kSsdBlockChannels =
    kSsdThreads / kSsdEighths* kLaneChannels;

template <int kLaneChannels>
__host__ __device__ int64_t
SsdBlocksOfAHead(const SsdScanArguments& arguments) {
  constexpr int kChannels = kSsdBlockChannels<kLaneChannels>;
  return (arguments.head_dim + kChannels - 1) / kChannels;
}

template <int kLaneChannels>
__device__ SsdPart ThisSsdPart(const SsdScanArguments& arguments) {
  // `count` of what is left, but none below zero and at most `most`.
  const auto clamped = [](int64_t count, int64_t most) {
    return static_cast<int>(count < 0 ? 0 : count < most ? count : most);
  };
  const int64_t blocks = SsdBlocksOfAHead<kLaneChannels>(arguments);
  const int thread = static_cast<int>(threadIdx.x);
  SsdPart part;
  part.head = blockIdx.x / blocks;
  part.first_channel = blockIdx.x % blocks * kSsdBlockChannels<kLaneChannels>;
  part.block_channel = thread / kSsdEighths * kLaneChannels;
  part.channel = part.first_channel + part.block_channel;
  part.channels = clamped(arguments.head_dim - part.channel, kLaneChannels);
  part.eighth = thread % kSsdEighths;
  part.first_state = part.eighth * StatesOfAnEighth(arguments);
  part.states = part.channels == 0
                    ? 0
                    : clamped(arguments.d_state - part.first_state,
                              StatesOfAnEighth(arguments));
  return part;
}

// Where a row's states of the thread's channels begin in a slot.
__device__ inline float* StatesOf(const SsdScanArguments& arguments,
                                  const SsdPart& part, int32_t slot) {
  return ShareAt(arguments.ssm_state, slot) +
         (part.head * arguments.d_state + part.first_state) *
             arguments.head_dim +
         part.channel;
}

// A block of threads for each row and block of channels.
template <int kLaneChannels>
dim3 SsdGrid(const SsdScanArguments& arguments, int64_t rows) {
  return dim3(static_cast<unsigned>(arguments.heads *
                                    SsdBlocksOfAHead<kLaneChannels>(arguments)),
              static_cast<unsigned>(rows));
}

}  // namespace engram::cuda
