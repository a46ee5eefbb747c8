// Kernels that try what kernels are written in.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace engram::cuda {

// sums[block] = the sum of a block's 256 of `values`; `values` are doubled.
//   values  [256 blocks] in and out
//   sums    [blocks] out
cudaError_t SumAndDouble(cudaStream_t stream, int blocks, float* values,
                         float* sums);

// turned[lane][m] = what lane `lane` gets of matrix m by LoadTurned, where the
// 16-bit elements [row, column] of matrix m are 64 m + 8 row + column.
//   turned  [32, 4] out
cudaError_t Turn(cudaStream_t stream, uint32_t* turned);

}  // namespace engram::cuda
