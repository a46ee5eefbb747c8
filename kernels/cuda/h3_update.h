// Backend::ShiftMultiply and Backend::DiagonalScan of decode steps in one
// kernel.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/step_table.h"
#include "kernels/operations.h"

namespace engram::cuda {

struct H3UpdateArguments {
  // p is only written if it can't be done in one kernel.
  ShiftMultiplyArguments shift;
  // Of as many channels, with a gate or none; p is shift's, whatever it says.
  // y may be the same as v.
  DiagonalScanArguments scan;
};

// Begins on `stream` what gives, bit for bit, ShiftMultiply and then
// DiagonalScan. That is one kernel if every row has a token or none, and there
// are at most 32 pairs and 128 taps; else the two. An error is one of the
// launches.
//
// Bytes that the one moves, of each row and channel: 16 pairs of the diagonal
// state, read and written once, 4 (taps - 1) that are read of the shift's and 4
// that are written, and 16 of k, v, gate and y; the second-level cache gives 16
// pairs of decay and read and 4 taps of the filter for every 2 rows (each row
// up to 8 of them).
cudaError_t H3Update(cudaStream_t stream, const StepTable& step,
                     const H3UpdateArguments& arguments);

}  // namespace engram::cuda
