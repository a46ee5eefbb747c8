// Backend::GatedNorm on a device.
#pragma once

#include <cuda_runtime.h>

#include "kernels/operations.h"

namespace engram::cuda {

// Begins it on `stream`; an error is one of the launch. z without data: y has
// been gated.
cudaError_t GatedNorm(cudaStream_t stream, const GatedNormArguments& arguments);

}  // namespace engram::cuda
