#include "kernels/weight_values.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "kernels/int4_scale.h"
#include "kernels/status.h"

namespace engram {
namespace {

uint16_t NarrowValue(WeightFormat format, float value) {
  return format == WeightFormat::kBFloat16 ? NarrowToBFloat16(value)
                                           : NarrowToFloat16(value);
}

absl::Status CheckFinite(float value, WeightFormat format) {
  if (std::isfinite(value)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the weight ", value, " has no number in ", WeightFormatName(format)));
}

absl::Status TooLarge(float value, WeightFormat format) {
  return absl::InvalidArgumentError(absl::StrCat(
      "the weight ", value, " is too large for ", WeightFormatName(format)));
}

// From here on the nearest float16 is infinity.
constexpr float kBeyondFloat16 = 65520.0f;

// One unit; its scale.
absl::StatusOr<float> Quantise(absl::Span<const float> unit, int8_t* values) {
  constexpr float kLargest = 127.0f;
  float largest = 0;
  for (const float value : unit) {
    ENGRAM_RETURN_IF_ERROR(CheckFinite(value, WeightFormat::kInt8));
    largest = std::max(largest, std::fabs(value));
  }
  const float scale = largest / kLargest;
  if (scale < std::numeric_limits<float>::min()) {
    std::fill_n(values, unit.size(), int8_t{0});
    return 0.0f;
  }
  for (size_t i = 0; i < unit.size(); ++i) {
    values[i] = static_cast<int8_t>(
        std::nearbyint(std::clamp(unit[i] / scale, -kLargest, kLargest)));
  }
  return scale;
}

}  // namespace

float WidenValue(WeightFormat format, uint16_t bits) {
  return format == WeightFormat::kBFloat16 ? WidenBFloat16(bits)
                                           : WidenFloat16(bits);
}

absl::StatusOr<std::vector<uint16_t>> NarrowValues(const Tensor& weight,
                                                   int64_t first, int64_t count,
                                                   WeightFormat format) {
  std::vector<uint16_t> bits(count);
  if (weight.type == StoredType(format)) {
    std::memcpy(
        bits.data(),
        static_cast<const char*>(weight.data) + first * sizeof(uint16_t),
        count * sizeof(uint16_t));
    return bits;
  }
  std::vector<float> values(count);
  WidenToFloat32(weight, first, absl::MakeSpan(values));
  for (int64_t i = 0; i < count; ++i) {
    bits[i] = NarrowValue(format, values[i]);
    if (std::isfinite(values[i]) &&
        !std::isfinite(WidenValue(format, bits[i]))) {
      return TooLarge(values[i], format);
    }
  }
  return bits;
}

absl::StatusOr<Int8Rows> QuantiseToInt8(const Tensor& weight, int64_t first,
                                        int64_t rows) {
  const int64_t inputs = weight.shape[1];
  Int8Rows quantised;
  quantised.values.resize(rows * inputs);
  std::vector<float> row(inputs);
  for (int64_t i = 0; i < rows; ++i) {
    WidenToFloat32(weight, (first + i) * inputs, absl::MakeSpan(row));
    for (int64_t k = 0; k < inputs; k += kInt8UnitInputs) {
      ENGRAM_ASSIGN_OR_RETURN(
          const float scale,
          Quantise(absl::MakeConstSpan(row).subspan(k, kInt8UnitInputs),
                   quantised.values.data() + i * inputs + k));
      quantised.scales.push_back(scale);
    }
  }
  return quantised;
}

float WidenInt4(uint8_t value, uint16_t scale, uint16_t minimum) {
  // The product is exact.
  return static_cast<float>(value) * WidenFloat16(scale) +
         WidenFloat16(minimum);
}

absl::StatusOr<Int4Rows> QuantiseToInt4(const Tensor& weight, int64_t first,
                                        int64_t rows) {
  const int64_t inputs = weight.shape[1];
  Int4Rows quantised;
  quantised.values.resize(rows * inputs);
  std::vector<float> row(inputs);
  for (int64_t i = 0; i < rows; ++i) {
    WidenToFloat32(weight, (first + i) * inputs, absl::MakeSpan(row));
    for (const float value : row) {
      ENGRAM_RETURN_IF_ERROR(CheckFinite(value, WeightFormat::kInt4));
      if (std::fabs(value) >= kBeyondFloat16) {
        return TooLarge(value, WeightFormat::kInt4);
      }
    }
    for (int64_t k = 0; k < inputs; k += kInt4GroupInputs) {
      const auto group = absl::MakeConstSpan(row).subspan(k, kInt4GroupInputs);
      const Int4Scale scale = FitInt4Scale(group);
      RoundToInt4(group, scale, quantised.values.data() + i * inputs + k);
      quantised.scales.push_back(scale.scale);
      quantised.minimums.push_back(scale.minimum);
    }
  }
  return quantised;
}

}  // namespace engram
