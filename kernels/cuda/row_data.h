// Where a kernel finds the data of a row, of a token and of a slot. All offsets
// have 64 bits: a few hundred slots of a large model are more than 2^31 floats.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/step_table.h"
#include "kernels/operations.h"

namespace engram::cuda {

__device__ inline StepRow RowAt(const StepTable& step, int64_t index) {
  const StepRow* const source = step.rows + index;
  StepRow row;
  row.slot_in = Load(&source->slot_in);
  row.slot_out = Load(&source->slot_out);
  row.tokens = Load(&source->tokens);
  row.offset = Load(&source->offset);
  row.position = Load(&source->position);
  row.first_block = Load(&source->first_block);
  return row;
}

// REQUIRES: the matrix is of kFloat32.
__device__ inline const float* At(const ConstMatrix& matrix, int64_t token,
                                  int64_t column) {
  return static_cast<const float*>(matrix.data) + token * matrix.stride +
         column;
}
__device__ inline float* At(const Matrix& matrix, int64_t token,
                            int64_t column) {
  return static_cast<float*>(matrix.data) + token * matrix.stride + column;
}

// The share of a slot or of a block of keys and values.
__device__ inline float* ShareAt(const LayerShares& shares, int64_t index) {
  return shares.data + index * shares.stride;
}

}  // namespace engram::cuda
