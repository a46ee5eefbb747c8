// Backend::AttentionBlock on a device, for steps whose rows have one token
// each.
#pragma once

#include <cuda_runtime.h>

#include "kernels/block_scratch.h"
#include "kernels/blocks.h"
#include "kernels/cuda/large_products.h"
#include "kernels/cuda/step_table.h"

namespace engram::cuda {

// Begins it on `stream`; an error is one of the launches. `scratch` has what
// ScratchFloats() tells. REQUIRES: step.HasOneTokenARow().
cudaError_t AttentionBlock(cudaStream_t stream, const LargeProducts& products,
                           const StepTable& step,
                           const AttentionBlockArguments& block,
                           BlockScratch scratch, float* residual);

}  // namespace engram::cuda
