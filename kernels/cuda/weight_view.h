// WeightView: a packed weight as kernels see it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/operations.h"

namespace engram::cuda {

// [outputs, inputs] in row-major order, one copy for products of every size and
// for embeddings. Rows begin `stride` values apart and are filled up with
// zeros; so are the outputs, with rows of zeros, to a multiple of
// kOutputsMultiple.
struct WeightView {
  static constexpr int64_t kInputsMultiple = 16;
  static constexpr int64_t kOutputsMultiple = 8;

  const void* values = nullptr;  // 256-byte aligned
  int64_t outputs = 0;
  int64_t inputs = 0;
  int64_t stride = 0;  // a multiple of kInputsMultiple
  WeightFormat format = WeightFormat::kFloat32;
  // Of kInt8, whose values are bytes: [outputs / 8, units, 8], so that those of
  // eight outputs and a unit of 64 inputs are copied as one.
  const float* scales = nullptr;  // 16-byte aligned

  // Of the scale of an output's unit among them.
  __host__ __device__ int64_t ScalePlace(int64_t output, int64_t unit) const {
    const int64_t units = (inputs + kInt8UnitInputs - 1) / kInt8UnitInputs;
    return (output / kOutputsMultiple * units + unit) * kOutputsMultiple +
           output % kOutputsMultiple;
  }
};

}  // namespace engram::cuda
