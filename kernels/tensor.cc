#include "kernels/tensor.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/status.h"

namespace engram {
namespace {

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

uint16_t LoadUint16(const void* data, int64_t index) {
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(data) + 2 * index, sizeof(bits));
  return bits;
}

float WidenFloat16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) return FromBits(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) {
    return FromBits(sign | ((exponent + 112) << 23) | (mantissa << 13));
  }
  // Zero or denormal: the mantissa counts steps of 2^-24. The product is a
  // normal float, so a flushing thread gets it right too.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

}  // namespace

size_t DataTypeBytes(DataType type) {
  return type == DataType::kFloat32 ? 4 : 2;
}

const char* DataTypeName(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return "F32";
    case DataType::kBFloat16:
      return "BF16";
    case DataType::kFloat16:
      return "F16";
  }
  return "unknown";
}

int64_t Tensor::elements() const {
  int64_t product = 1;
  for (const int64_t extent : shape) product *= extent;
  return product;
}

std::string ShapeToString(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

void WidenToFloat32(const Tensor& tensor, int64_t first,
                    absl::Span<float> target) {
  const int64_t count = static_cast<int64_t>(target.size());
  ENGRAM_CHECK(first >= 0 && first + count <= tensor.elements());
  if (count == 0) return;
  switch (tensor.type) {
    case DataType::kFloat32:
      std::memcpy(target.data(),
                  static_cast<const char*>(tensor.data) + 4 * first, 4 * count);
      return;
    case DataType::kBFloat16:
      for (int64_t i = 0; i < count; ++i) {
        const uint32_t upper_half = LoadUint16(tensor.data, first + i);
        target[i] = FromBits(upper_half << 16);
      }
      return;
    case DataType::kFloat16:
      for (int64_t i = 0; i < count; ++i) {
        target[i] = WidenFloat16(LoadUint16(tensor.data, first + i));
      }
      return;
  }
}

std::vector<float> WidenToFloat32(const Tensor& tensor) {
  std::vector<float> values(tensor.elements());
  WidenToFloat32(tensor, 0, absl::MakeSpan(values));
  return values;
}

}  // namespace engram
