// What a weight is packed of: a tensor of floats, whose values are rounded to a
// format, or a matrix whose values are quantised already.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/operations.h"
#include "kernels/tensor.h"
#include "kernels/weight_values.h"

namespace engram {

// Non-owning views of row-major data in host memory, as a checkpoint holds it:
// little-endian, may be unaligned.
//
// kInt8: values are int8 [outputs, inputs], scales float32
// [outputs, Int8Units(inputs)]. kInt4: values are bytes
// [outputs, Int4RowBytes(inputs)] of two integers each, the first one in the
// lower bits, what is left of the last one 0; scales and minimums are float16
// [outputs, Int4Groups(inputs)].
struct QuantisedMatrix {
  WeightFormat format = WeightFormat::kInt8;
  int64_t outputs = 0;
  int64_t inputs = 0;
  const void* values = nullptr;
  const void* scales = nullptr;
  const void* minimums = nullptr;  // kInt4 only
};
constexpr int64_t Int4RowBytes(int64_t inputs) { return (inputs + 1) / 2; }

// The values of `rows` [outputs, inputs] as a QuantisedMatrix has them.
std::vector<uint8_t> Int4Bytes(const Int4Rows& rows, int64_t inputs);

// INVALID_ARGUMENT names the first number that quantising never gives: a scale
// that is negative, not finite or so large that a value would not be, a minimum
// that is not finite, or the integer -128 in kInt8.
absl::Status CheckQuantised(const QuantisedMatrix& matrix);

// What it points to must outlive it. Thread-safe: constant.
class WeightSource {
 public:
  // REQUIRES: a matrix [outputs, inputs].
  WeightSource(const Tensor& floats, WeightFormat format)
      : floats_(floats), format_(format) {}
  // REQUIRES: CheckQuantised(matrix) is OK.
  explicit WeightSource(const QuantisedMatrix& matrix)
      : matrix_(matrix), format_(matrix.format) {}

  WeightShape shape() const;
  WeightFormat format() const { return format_; }

  // Rows [first, first + rows) in the format, of which the method's name must
  // be one. INVALID_ARGUMENT: a value that the format has no number for.
  std::vector<float> Float32(int64_t first, int64_t rows) const;
  absl::StatusOr<std::vector<uint16_t>> Halves(int64_t first,
                                               int64_t rows) const;
  absl::StatusOr<Int8Rows> Int8(int64_t first, int64_t rows) const;
  absl::StatusOr<Int4Rows> Int4(int64_t first, int64_t rows) const;

 private:
  Tensor floats_;  // unless there is
  std::optional<QuantisedMatrix> matrix_;
  WeightFormat format_;
};

}  // namespace engram
