// How the scans over channels with a few states each are dealt out to threads:
// a warp has 8 neighbouring channels, each on 4 lanes that have a quarter of
// its states. So rows of states are moved in whole sectors of 32 bytes, and a
// sum over a channel's states takes two exchanges and no barrier.
//
// A quarter is ceil(states / 4) states; each sums up its own in ascending
// order, and the sum is (q0 + q1) + (q2 + q3).
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"

namespace engram::cuda {

inline constexpr int kScanQuarters = 4;
inline constexpr int kScanWarpChannels = 32 / kScanQuarters;
inline constexpr int kScanThreads = 64;
inline constexpr int kScanBlockChannels = kScanThreads / kScanQuarters;

struct ScanLane {
  int block_channel;  // of this thread, within its block
  int quarter;
};

__device__ inline ScanLane ThisScanLane() {
  const int thread = static_cast<int>(threadIdx.x);
  return {thread / 32 * kScanWarpChannels + thread % kScanWarpChannels,
          thread % 32 / kScanWarpChannels};
}

// A quarter's states: `count` of them from state `first` of the channel on,
// none if that is below 1.
struct QuarterStates {
  int64_t first;
  int count;
};

__device__ inline int64_t StatesOfAQuarter(int64_t states) {
  return (states + kScanQuarters - 1) / kScanQuarters;
}

// Of a channel with `states` states; with none if it is not there.
__device__ inline QuarterStates QuarterStatesOf(int64_t states, int quarter,
                                                bool exists) {
  const int64_t most = StatesOfAQuarter(states);
  const int64_t first = quarter * most;
  const int64_t left = exists ? states - first : 0;
  return {first, static_cast<int>(left < most ? left : most)};
}

// The same for all lanes of a channel.
__device__ inline float SumOfQuarters(float quarter) {
  const float half = quarter + ShuffleXor(quarter, kScanWarpChannels);
  return half + ShuffleXor(half, 2 * kScanWarpChannels);
}
// The same of several, whose exchanges are on their way together.
template <int kCount>
__device__ inline void SumQuarters(float (&quarters)[kCount]) {
#pragma unroll
  for (int lanes = kScanWarpChannels; lanes < 32; lanes *= 2) {
    float others[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) others[i] = ShuffleXor(quarters[i], lanes);
#pragma unroll
    for (int i = 0; i < kCount; ++i) quarters[i] += others[i];
  }
}

inline unsigned ScanBlocks(int64_t channels) {
  return static_cast<unsigned>((channels + kScanBlockChannels - 1) /
                               kScanBlockChannels);
}

}  // namespace engram::cuda
