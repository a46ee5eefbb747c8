// dt_proj and Backend::SelectiveScan of decode steps in one kernel.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/product.h"
#include "kernels/cuda/step_table.h"
#include "kernels/operations.h"

namespace engram::cuda {

struct MambaUpdateArguments {
  // Of scan.dt, which is its y: a place that is only looked at if it can't be
  // done in one kernel.
  ProductArguments dt_proj;
  SelectiveScanArguments scan;
};

// Begins on `stream` what gives, bit for bit, dt_proj and then SelectiveScan.
// That is one kernel if every row has a token or none, d_state is at most 16,
// dt_rank at most 256 and dt_proj not in int8; else the two. An error is one of
// the launches.
//
// Bytes that the one moves, of each row and channel: 8 d_state of the state,
// read and written once, and 12 of x, z and y; the second-level cache gives
// each block dt_proj's inputs, b and c, and every 4 rows (each row up to 8 of
// them) dt_proj and a.
cudaError_t MambaUpdate(cudaStream_t stream, const StepTable& step,
                        const MambaUpdateArguments& arguments);

}  // namespace engram::cuda
