#include "kernels/weight_values.h"

#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace engram {
namespace {

uint16_t NarrowValue(WeightFormat format, float value) {
  return format == WeightFormat::kBFloat16 ? NarrowToBFloat16(value)
                                           : NarrowToFloat16(value);
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
      return absl::InvalidArgumentError(absl::StrCat("the weight ", values[i],
                                                     " is too large for ",
                                                     WeightFormatName(format)));
    }
  }
  return bits;
}

}  // namespace engram
