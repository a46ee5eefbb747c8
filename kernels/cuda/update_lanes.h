// How updates of states by one token a row are dealt out to threads: a block
// has 32 channels of a few rows, a warp a quarter of the states of all of them.
// So a state of the channels is moved in 128 bytes, what is the same for all
// rows is loaded once, and a thread has many loads on their way.
//
// Quarters are those of scan_lanes.h, and so are sums over a channel's states,
// here by way of shared memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/scan_lanes.h"
#include "kernels/cuda/step_table.h"

namespace engram::cuda {

inline constexpr int kUpdateChannels = 32;
inline constexpr int kUpdateThreads = kScanQuarters * 32;

// The states that a thread has, of each of its block's rows.
struct UpdateLane {
  int block_channel;
  int quarter;
};

__device__ inline UpdateLane ThisUpdateLane() {
  const int thread = static_cast<int>(threadIdx.x);
  return {thread % 32, thread / 32};
}

// What a channel has one of at a token is dealt out otherwise: a value to a
// thread, those of a row to 8 lanes of each warp. Of rows that the block does
// not have there are lanes, too.
struct UpdateValue {
  int row;  // of the block's
  int block_channel;

  __device__ int Place() const { return row * kUpdateChannels + block_channel; }
};

__device__ inline UpdateValue ThisUpdateValue() {
  constexpr int kWarpChannels = kUpdateChannels / kScanQuarters;
  const int thread = static_cast<int>(threadIdx.x);
  return {thread % 32 / kWarpChannels,
          thread / 32 * kWarpChannels + thread % kWarpChannels};
}

// A row of the step as an update sees it: where its token is, or that it has
// none. Behind the last row there are such that do nothing.
struct UpdateRow {
  int32_t slot_in, slot_out;
  bool feeds;  // it has a token
  int64_t token;
  int64_t position;

  // Whether a state is left in slot_out.
  __device__ bool Moves() const { return feeds || slot_in != slot_out; }
};

// A block's rows, in shared memory: they take many registers.
template <int kRows>
struct UpdateRows {
  UpdateRow rows[kRows];

  // From row `first` of the step on. To be called by all threads, which see the
  // rows afterwards.
  __device__ void Put(const StepTable& step, int64_t first) {
    if (threadIdx.x < kRows) {
      UpdateRow row = {0, 0, false, 0, 0};
      if (first + threadIdx.x < step.row_count) {
        const StepRow of_step = RowAt(step, first + threadIdx.x);
        row = {of_step.slot_in, of_step.slot_out, of_step.tokens > 0,
               of_step.offset, of_step.position};
      }
      rows[threadIdx.x] = row;
    }
    BlockBarrier();
  }
  __device__ const UpdateRow& operator[](int row) const { return rows[row]; }
  // Whether `value` is of a row that has a token.
  __device__ bool Feeds(const UpdateValue& value) const {
    return value.row < kRows && rows[value.row].feeds;
  }
};

// The quarters' sums of each row and channel, in shared memory.
template <int kRows>
struct UpdateSums {
  float values[kRows * kScanQuarters * kUpdateChannels];

  __device__ void Put(const UpdateLane& lane, int row, float sum) {
    values[(row * kScanQuarters + lane.quarter) * kUpdateChannels +
           lane.block_channel] = sum;
  }
  // Behind a barrier.
  __device__ float Of(const UpdateValue& value) const {
    const float* const quarters = values +
                                  value.row * kScanQuarters * kUpdateChannels +
                                  value.block_channel;
    return (quarters[0] + quarters[kUpdateChannels]) +
           (quarters[2 * kUpdateChannels] + quarters[3 * kUpdateChannels]);
  }
};

// Blocks of `channels`, and of rows.
inline dim3 UpdateGrid(int64_t channels, int64_t rows, int block_rows) {
  return dim3(
      static_cast<unsigned>((channels + kUpdateChannels - 1) / kUpdateChannels),
      static_cast<unsigned>((rows + block_rows - 1) / block_rows));
}

}  // namespace engram::cuda
