// Rows that follow the draws of the step before (Row::follows) get their tokens
// where those were drawn.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/outcome_rows.h"
#include "kernels/cuda/step_table.h"

namespace engram::cuda {

// What PrepareStep changes in a table that has come to the device.
struct FollowingRows {
  StepRow* rows = nullptr;
  int32_t* ids = nullptr;  // one per token
  int64_t row_count = 0;
};

// Each row that follows feeds the token of its answer, or none if the sequence
// has stopped with it. An error is one of the launch.
cudaError_t FollowAnswers(cudaStream_t stream, const FollowingRows& rows,
                          const OutcomeAnswer* answers);

}  // namespace engram::cuda
