// Where a kernel finds the data of a row, of a token and of a slot. All offsets
// have 64 bits: a few hundred slots of a large model are more than 2^31 floats.
#pragma once

#include <cstdint>

#include "kernels/cuda/alignment.h"
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

// Four neighbouring values, of which `left` exist; zeros behind them.
// `aligned`: they begin at a multiple of 16 bytes.
__device__ inline float4 LoadFour(const float* source, int64_t left,
                                  bool aligned) {
  if (aligned && left >= 4) {
    return Load(reinterpret_cast<const float4*>(source));
  }
  float4 four = {0.0f, 0.0f, 0.0f, 0.0f};
  if (left > 0) four.x = Load(source);
  if (left > 1) four.y = Load(source + 1);
  if (left > 2) four.z = Load(source + 2);
  if (left > 3) four.w = Load(source + 3);
  return four;
}

// Values of neighbouring channels, which are loaded and stored together.
template <int kChannels>
struct alignas(kChannels * sizeof(float)) Values {
  float of[kChannels];
};
template <int kChannels>
__device__ const Values<kChannels>* ValuesAt(const float* values) {
  return reinterpret_cast<const Values<kChannels>*>(values);
}
template <int kChannels>
__device__ Values<kChannels>* ValuesAt(float* values) {
  return reinterpret_cast<Values<kChannels>*>(values);
}

// The share of a slot or of a block of keys and values.
__device__ inline float* ShareAt(const LayerShares& shares, int64_t index) {
  return shares.data + index * shares.stride;
}

}  // namespace engram::cuda
