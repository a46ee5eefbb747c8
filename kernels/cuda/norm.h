// Backend::Norm on a device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/operations.h"

namespace engram::cuda {

// Begins it on `stream`; an error is one of the launch.
cudaError_t Norm(cudaStream_t stream, const NormWeights& norm, int64_t tokens,
                 int64_t d_model, const float* residual, Matrix normed);

}  // namespace engram::cuda
