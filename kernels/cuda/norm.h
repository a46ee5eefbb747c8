// Backend::Norm and Backend::GatedNorm on a device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/operations.h"

namespace engram::cuda {

// Each begins it on `stream`; an error is one of the launch.

cudaError_t Norm(cudaStream_t stream, const NormWeights& norm, int64_t tokens,
                 int64_t d_model, const float* residual, Matrix normed);

// z without data: y has been gated.
cudaError_t GatedNorm(cudaStream_t stream, const GatedNormArguments& arguments);

}  // namespace engram::cuda
