#include "kernels/weight_source.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

// `count` elements from `first` on, of a place that may be unaligned.
template <typename Element>
std::vector<Element> Elements(const void* data, int64_t first, int64_t count) {
  std::vector<Element> elements(count);
  std::memcpy(elements.data(),
              static_cast<const char*>(data) + first * sizeof(Element),
              count * sizeof(Element));
  return elements;
}

absl::Status Wrong(const char* what, int64_t row, int64_t column, double value,
                   const std::string& expected) {
  return absl::InvalidArgumentError(absl::StrCat(what, " is ", value, " at [",
                                                 row, ", ", column,
                                                 "], expected ", expected));
}

absl::Status CheckInt8Row(const QuantisedMatrix& matrix, int64_t row) {
  // A value is 127 times the scale at most.
  constexpr float kLargest = std::numeric_limits<float>::max() / 127;
  const int64_t units = Int8Units(matrix.inputs);
  const auto scales = Elements<float>(matrix.scales, row * units, units);
  for (int64_t i = 0; i < units; ++i) {
    if (scales[i] >= 0 && scales[i] <= kLargest) continue;
    return Wrong("a scale", row, i, scales[i], absl::StrCat("0 to ", kLargest));
  }
  const auto* const values =
      static_cast<const char*>(matrix.values) + row * matrix.inputs;
  const void* const least = std::memchr(values, -128, matrix.inputs);
  if (least == nullptr) return absl::OkStatus();
  return Wrong("a value", row, static_cast<const char*>(least) - values, -128,
               "-127 to 127");
}

absl::Status CheckInt4Row(const QuantisedMatrix& matrix, int64_t row) {
  const int64_t groups = Int4Groups(matrix.inputs);
  const auto scales = Elements<uint16_t>(matrix.scales, row * groups, groups);
  const auto minimums =
      Elements<uint16_t>(matrix.minimums, row * groups, groups);
  for (int64_t i = 0; i < groups; ++i) {
    const float scale = WidenFloat16(scales[i]);
    if (!(scale >= 0 && std::isfinite(scale))) {
      return Wrong("a scale", row, i, scale, "a finite number of at least 0");
    }
    const float minimum = WidenFloat16(minimums[i]);
    if (!std::isfinite(minimum)) {
      return Wrong("a minimum", row, i, minimum, "a finite number");
    }
  }
  return absl::OkStatus();
}

Int8Rows StoredInt8(const QuantisedMatrix& matrix, int64_t first,
                    int64_t rows) {
  const int64_t inputs = matrix.inputs, units = Int8Units(inputs);
  return {Elements<int8_t>(matrix.values, first * inputs, rows * inputs),
          Elements<float>(matrix.scales, first * units, rows * units)};
}

Int4Rows StoredInt4(const QuantisedMatrix& matrix, int64_t first,
                    int64_t rows) {
  const int64_t inputs = matrix.inputs, groups = Int4Groups(inputs);
  const int64_t row_bytes = Int4RowBytes(inputs);
  const auto bytes =
      Elements<uint8_t>(matrix.values, first * row_bytes, rows * row_bytes);
  Int4Rows stored;
  stored.values.reserve(rows * inputs);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < inputs; ++k) {
      const uint8_t pair = bytes[row * row_bytes + k / 2];
      stored.values.push_back(k % 2 == 0 ? pair & 15 : pair >> 4);
    }
  }
  stored.scales =
      Elements<uint16_t>(matrix.scales, first * groups, rows * groups);
  stored.minimums =
      Elements<uint16_t>(matrix.minimums, first * groups, rows * groups);
  return stored;
}

}  // namespace

std::vector<uint8_t> Int4Bytes(const Int4Rows& rows, int64_t inputs) {
  const int64_t row_bytes = Int4RowBytes(inputs);
  const auto count = static_cast<int64_t>(rows.values.size()) / inputs;
  std::vector<uint8_t> bytes(count * row_bytes);
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t k = 0; k < inputs; ++k) {
      bytes[row * row_bytes + k / 2] |=
          static_cast<uint8_t>(rows.values[row * inputs + k] << (k % 2 * 4));
    }
  }
  return bytes;
}

absl::Status CheckQuantised(const QuantisedMatrix& matrix) {
  for (int64_t row = 0; row < matrix.outputs; ++row) {
    ENGRAM_RETURN_IF_ERROR(matrix.format == WeightFormat::kInt8
                               ? CheckInt8Row(matrix, row)
                               : CheckInt4Row(matrix, row));
  }
  return absl::OkStatus();
}

WeightShape WeightSource::shape() const {
  if (matrix_.has_value()) return {matrix_->outputs, matrix_->inputs, format_};
  return {floats_.shape[0], floats_.shape[1], format_};
}

std::vector<float> WeightSource::Float32(int64_t first, int64_t rows) const {
  ENGRAM_CHECK(!matrix_.has_value());
  std::vector<float> values(rows * shape().inputs);
  WidenToFloat32(floats_, first * shape().inputs, absl::MakeSpan(values));
  return values;
}

absl::StatusOr<std::vector<uint16_t>> WeightSource::Halves(int64_t first,
                                                           int64_t rows) const {
  ENGRAM_CHECK(!matrix_.has_value());
  const int64_t inputs = shape().inputs;
  return NarrowValues(floats_, first * inputs, rows * inputs, format_);
}

absl::StatusOr<Int8Rows> WeightSource::Int8(int64_t first, int64_t rows) const {
  if (matrix_.has_value()) return StoredInt8(*matrix_, first, rows);
  return QuantiseToInt8(floats_, first, rows);
}

absl::StatusOr<Int4Rows> WeightSource::Int4(int64_t first, int64_t rows) const {
  if (matrix_.has_value()) return StoredInt4(*matrix_, first, rows);
  return QuantiseToInt4(floats_, first, rows);
}

}  // namespace engram
