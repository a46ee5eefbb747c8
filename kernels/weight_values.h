// The values of a weight in a format of 16, 8 or 4 bits, for back ends that
// pack one.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/operations.h"
#include "kernels/tensor.h"

namespace engram {

// `count` values of `weight` from `first` on, in its row-major order, as the
// bits of `format`: rounded to the nearest, ties to even, unless they have that
// format already. INVALID_ARGUMENT if a finite value would become infinite.
// REQUIRES: a format of 16 bits; the values lie within the tensor.
absl::StatusOr<std::vector<uint16_t>> NarrowValues(const Tensor& weight,
                                                   int64_t first, int64_t count,
                                                   WeightFormat format);

// What such bits stand for.
float WidenValue(WeightFormat format, uint16_t bits);

// Outputs of a weight in kInt8.
struct Int8Rows {
  std::vector<int8_t> values;  // [rows, inputs]
  std::vector<float> scales;   // [rows, Int8Units(inputs)]
};

// Rows [first, first + rows) of `weight` [outputs, inputs]. A unit's scale is a
// 127th of its largest magnitude, 0 where that is no normal number; its values
// are the nearest, ties to even. INVALID_ARGUMENT if a value is not finite.
absl::StatusOr<Int8Rows> QuantiseToInt8(const Tensor& weight, int64_t first,
                                        int64_t rows);

// Outputs of a weight in kInt4; scales and minimums are float16.
struct Int4Rows {
  std::vector<uint8_t> values;     // [rows, inputs], each from 0 to 15
  std::vector<uint16_t> scales;    // [rows, Int4Groups(inputs)]
  std::vector<uint16_t> minimums;  // likewise
};

// What an integer of a group with that scale and minimum stands for.
float WidenInt4(uint8_t value, uint16_t scale, uint16_t minimum);

// Rows [first, first + rows) of `weight` [outputs, inputs]. Of a few scales and
// minimums a group gets those by which the squares of its errors come to least.
// INVALID_ARGUMENT if a value is not finite, or beyond what float16 holds.
absl::StatusOr<Int4Rows> QuantiseToInt4(const Tensor& weight, int64_t first,
                                        int64_t rows);

}  // namespace engram
