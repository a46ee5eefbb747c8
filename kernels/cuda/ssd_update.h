// Backend::SsdScan of decode steps and the gate behind it in one kernel.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/step_table.h"
#include "kernels/operations.h"

namespace engram::cuda {

struct SsdUpdateArguments {
  SsdScanArguments scan;  // y is gated
  ConstMatrix z;          // [tokens, heads head_dim] gate
};

// Begins on `stream` what gives, bit for bit, SsdScan and then GatedNorm
// without weights: y silu(z). That is one kernel if every row has a token or
// none and d_state is at most 128; else the two. An error is one of the
// launches.
//
// Bytes that the one moves, of each row and channel: 8 d_state of the state,
// read and written once, and 12 of x, z and y; the second-level cache gives
// each block 8 d_state of b and c.
cudaError_t SsdUpdate(cudaStream_t stream, const StepTable& step,
                      const SsdUpdateArguments& arguments);

}  // namespace engram::cuda
