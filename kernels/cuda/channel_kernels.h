// How an operation over channels, whose state is a window of a row's last
// inputs, is dealt out: a thread has a channel of a row, or one or
// several of a few neighbouring tokens.
//
// Where all rows have at most one token, a thread also leaves the inputs of its
// row and channel. In longer rows others still read what the state was: a
// second kernel leaves the inputs.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/step_table.h"

namespace engram::cuda {

inline constexpr int kChannelThreads = 128;
inline constexpr int kTileTokens = 8;

// This thread's, of blocks of kChannelThreads; behind the last there are none.
__device__ inline int64_t ThisChannel() {
  return int64_t{blockIdx.x} * kChannelThreads + threadIdx.x;
}

template <class Arguments>
struct ChannelKernels {
  using Kernel = void (*)(StepTable, Arguments);

  Kernel rows;             // everything of row blockIdx.y
  Kernel tokens;           // kTileTokens tokens, of one row or of several
  Kernel keep_inputs;      // of row blockIdx.y
  int token_channels = 1;  // neighbouring ones, of a thread of `tokens`
};

// REQUIRES: there are rows.
template <class Arguments>
cudaError_t LaunchByChannels(cudaStream_t stream, const StepTable& step,
                             const Arguments& arguments, bool has_state,
                             const ChannelKernels<Arguments>& kernels) {
  const auto blocks = [&](int64_t channels_of_a_thread) {
    const int64_t channels = channels_of_a_thread * kChannelThreads;
    return static_cast<unsigned>((arguments.channels + channels - 1) /
                                 channels);
  };
  const auto rows = static_cast<unsigned>(step.row_count);
  const LaunchShape by_rows = {dim3(blocks(1), rows), dim3(kChannelThreads), 0};
  if (step.longest_row <= 1) {
    return Launch(by_rows, stream, kernels.rows, step, arguments);
  }
  const auto tiles =
      static_cast<unsigned>((step.token_count + kTileTokens - 1) / kTileTokens);
  const cudaError_t error = Launch(
      {dim3(blocks(kernels.token_channels), tiles), dim3(kChannelThreads), 0},
      stream, kernels.tokens, step, arguments);
  if (error != cudaSuccess || !has_state) return error;
  return Launch(by_rows, stream, kernels.keep_inputs, step, arguments);
}

}  // namespace engram::cuda
