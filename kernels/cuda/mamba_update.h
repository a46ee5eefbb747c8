// dt_proj and Backend::SelectiveScan of decode steps in one kernel.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/step_table.h"
#include "kernels/cuda/weight_view.h"
#include "kernels/operations.h"

namespace engram::cuda {

struct MambaUpdateArguments {
  WeightView dt_proj;                   // [d_inner, dt_rank]
  const float* dt_proj_bias = nullptr;  // [d_inner], or nullptr
  ConstMatrix delta;                    // [tokens, dt_rank], dt_proj's inputs
  // dt is what dt_proj is to give; where it lies is only looked at if it can't
  // be done in one kernel.
  SelectiveScanArguments scan;
  Matrix dt;  // the place of scan.dt
};

// Begins on `stream` what gives, bit for bit, dt = dt_proj delta + bias and
// then SelectiveScan. That is one kernel if every row has a token or none,
// d_state is at most 16, dt_rank at most 256 and dt_proj not in int8; else the
// two. An error is one of the launches.
//
// Bytes that the one moves, of each row and channel: 8 d_state of the state,
// read and written once, and 12 of x, z and y; the second-level cache gives
// each block delta, b and c, and every 4 rows (each row up to 8 of them)
// dt_proj and a.
cudaError_t MambaUpdate(cudaStream_t stream, const StepTable& step,
                        const MambaUpdateArguments& arguments);

}  // namespace engram::cuda
