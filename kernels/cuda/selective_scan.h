// Backend::SelectiveScan on a device.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/step_table.h"
#include "kernels/operations.h"

namespace engram::cuda {

// Begins it on `stream`; an error is one of the launch.
cudaError_t SelectiveScan(cudaStream_t stream, const StepTable& step,
                          const SelectiveScanArguments& arguments);

}  // namespace engram::cuda
