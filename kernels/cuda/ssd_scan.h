// Backend::SsdScan on a device, step by step.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/row_chunks.h"
#include "kernels/cuda/step_table.h"
#include "kernels/operations.h"

namespace engram::cuda {

// Begins it on `stream`, for that part of each row; an error is one of the
// launch.
cudaError_t SsdScan(cudaStream_t stream, const StepTable& step,
                    const SsdScanArguments& arguments,
                    RowPart row_part = RowPart::kAll);

}  // namespace engram::cuda
