// Embed, AddPositions, CopyRows, KeepLastTokens and FiniteRows of Backend on a
// device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/step_table.h"
#include "kernels/cuda/weight_view.h"
#include "kernels/operations.h"

namespace engram::cuda {

// Each begins its operation on `stream`; an error is one of the launch.

cudaError_t Embed(cudaStream_t stream, const StepTable& step,
                  const WeightView& table, float* residual);

cudaError_t AddPositions(cudaStream_t stream, const StepTable& step,
                         const float* table, int64_t width, Matrix target);

// `from` and `to` are of the host, `count` each, and not looked at any more
// when the call returns.
cudaError_t CopyRows(cudaStream_t stream, ConstMatrix source,
                     const int32_t* from, int64_t width, Matrix target,
                     const int32_t* to, int64_t count);

cudaError_t KeepLastTokens(cudaStream_t stream, const StepTable& step,
                           ConstMatrix x, int64_t width, LayerShares kept);

// Of the device: adds 1 to not_finite[i] at least once if any of x of row i is
// NaN or infinite.
//   not_finite  [rows]
cudaError_t CountNotFinite(cudaStream_t stream, const StepTable& step,
                           ConstMatrix x, int64_t width, uint32_t* not_finite);

}  // namespace engram::cuda
