// Attention of rows of many tokens: 32 of them go through keys and values
// together, whose bits are those of attention.cu.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/step_table.h"
#include "kernels/operations.h"

namespace engram::cuda {

// Whether the heads have a width, and keys and values an address, that the
// kernel takes; and whether a row has tokens enough for it to be worth it.
bool IsForLongAttention(const StepTable& step,
                        const AttentionArguments& arguments);

// Attends, with keys and values in their blocks. Begins it on `stream`; an
// error is one of the launch.
// REQUIRES: IsForLongAttention()
cudaError_t LongAttention(cudaStream_t stream, const StepTable& step,
                          const AttentionArguments& arguments);

}  // namespace engram::cuda
