// Kernels that try what kernels are written in.
#pragma once

#include <cuda_runtime.h>

namespace engram::cuda {

// sums[block] = the sum of a block's 256 of `values`; `values` are doubled.
//   values  [256 blocks] in and out
//   sums    [blocks] out
cudaError_t SumAndDouble(cudaStream_t stream, int blocks, float* values,
                         float* sums);

}  // namespace engram::cuda
