// What the threads of a block find together: sums, maxima, and the place that a
// running sum reaches. All of integers, so that no result depends on how many
// threads there are or in which order they come.
//
// Blocks are of whole warps, up to 32. All threads call these functions
// together; all of them are told the result.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"

namespace engram::cuda {

inline constexpr int kMostBlockWarps = 32;

// Of items 0, 1, ...: the first with which their running sum reaches what was
// wanted.
struct Place {
  int32_t item;
  bool is_needed_whole;  // nothing of its measure is left over
  uint64_t wanted;       // of all
  uint64_t rest;         // of the item's measure
};

// Shared memory that these functions exchange results in.
struct BlockExchange {
  uint64_t of_warp[kMostBlockWarps];
  Place place;
};

__device__ inline int Lane() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int Warp() { return static_cast<int>(threadIdx.x) / 32; }
__device__ inline int BlockWarps() { return static_cast<int>(blockDim.x) / 32; }

// `combine` is associative and commutative, and 0 changes nothing in it.
template <class Combine>
__device__ inline uint64_t CombineInWarp(uint64_t value,
                                         const Combine& combine) {
  for (int mask = 16; mask > 0; mask /= 2) {
    value = combine(value, ShuffleXor(value, mask));
  }
  return value;
}

template <class Combine>
__device__ inline uint64_t CombineInBlock(uint64_t value,
                                          const Combine& combine,
                                          BlockExchange& exchange) {
  value = CombineInWarp(value, combine);
  BlockBarrier();  // what was exchanged before has been read
  if (Lane() == 0) exchange.of_warp[Warp()] = value;
  BlockBarrier();
  return CombineInWarp(Lane() < BlockWarps() ? exchange.of_warp[Lane()] : 0,
                       combine);
}

struct Plus {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a + b; }
};
struct Larger {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const {
    return a > b ? a : b;
  }
};

__device__ inline uint64_t WarpSum(uint64_t value) {
  return CombineInWarp(value, Plus());
}
__device__ inline uint64_t BlockSum(uint64_t value, BlockExchange& exchange) {
  return CombineInBlock(value, Plus(), exchange);
}
__device__ inline uint64_t BlockMax(uint64_t value, BlockExchange& exchange) {
  return CombineInBlock(value, Larger(), exchange);
}

// The sum of this lane's value and those of the lanes before it.
__device__ inline uint64_t SumUpToLane(uint64_t value) {
  for (int delta = 1; delta < 32; delta *= 2) {
    const uint64_t before = ShuffleUp(value, delta);
    if (Lane() >= delta) value += before;
  }
  return value;
}

// The sum of the values of the threads before this one; `total` is of all.
__device__ inline uint64_t SumBefore(uint64_t value, BlockExchange& exchange,
                                     uint64_t* total) {
  const uint64_t in_warp = SumUpToLane(value);
  BlockBarrier();  // what was exchanged before has been read
  if (Lane() == 31) exchange.of_warp[Warp()] = in_warp;
  BlockBarrier();
  const uint64_t of_warps =
      SumUpToLane(Lane() < BlockWarps() ? exchange.of_warp[Lane()] : 0);
  *total = ShuffleFrom(of_warps, 31);
  const uint64_t before_warp =
      ShuffleFrom(of_warps, Warp() > 0 ? Warp() - 1 : 0);
  return in_warp - value + (Warp() > 0 ? before_warp : 0);
}

// Where the running sum of measure_of(item) reaches wanted_of(the sum of all).
// REQUIRES: 1 <= that <= the sum of all. What `measure_of` reads of shared
// memory may be changed as soon as this returns.
template <class Measure, class Wanted>
__device__ inline Place FindPlace(int32_t items, const Measure& measure_of,
                                  const Wanted& wanted_of,
                                  BlockExchange& exchange) {
  // Neighbouring items are a thread's own.
  const auto threads = static_cast<int32_t>(blockDim.x);
  const int32_t each = (items + threads - 1) / threads;
  const int32_t first = static_cast<int32_t>(threadIdx.x) * each;
  const int32_t end = first + each < items ? first + each : items;
  uint64_t own = 0;
  for (int32_t item = first; item < end; ++item) own += measure_of(item);
  uint64_t total = 0;
  const uint64_t before = SumBefore(own, exchange, &total);
  const uint64_t wanted = wanted_of(total);
  if (before < wanted && wanted <= before + own) {
    int32_t item = first;
    uint64_t rest = wanted - before;
    uint64_t measure = measure_of(item);
    while (measure < rest) {
      rest -= measure;
      measure = measure_of(++item);
    }
    exchange.place = {item, measure == rest, wanted, rest};
  }
  BlockBarrier();
  return exchange.place;
}

}  // namespace engram::cuda
