#include "kernels/tensor.h"

#include <algorithm>
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

uint32_t ToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

constexpr uint32_t kExponent = 0x7f800000;  // of a float32

// The first of `count` numbers of one width whose exponent, which `exponent`
// masks, is all ones, as it is of infinities and NaNs; -1: none. Blocks are
// looked through without branches, so that the compiler can use vectors: nearly
// all numbers are finite.
template <typename Bits>
int64_t FirstWithExponent(const void* data, int64_t count, Bits exponent) {
  constexpr int64_t kBlock = 4096;
  const auto is_bad = [data, exponent](int64_t index) {
    Bits bits;
    std::memcpy(&bits, static_cast<const char*>(data) + index * sizeof(Bits),
                sizeof(Bits));
    return (bits & exponent) == exponent;
  };
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    Bits found = 0;
    for (int64_t i = begin; i < end; ++i) found |= is_bad(i) ? 1 : 0;
    if (found == 0) continue;
    for (int64_t i = begin; i < end; ++i) {
      if (is_bad(i)) return i;
    }
  }
  return -1;
}

}  // namespace

float WidenBFloat16(uint16_t bits) {
  return FromBits(static_cast<uint32_t>(bits) << 16);
}

uint16_t NarrowToBFloat16(float value) {
  const uint32_t bits = ToBits(value);
  // A NaN stays one, whose mantissa rounding could carry away.
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
  const uint32_t half = 0x7fffu + ((bits >> 16) & 1u);  // ties to even
  return static_cast<uint16_t>((bits + half) >> 16);
}

uint16_t NarrowToFloat16(float value) {
  const uint32_t bits = ToBits(value);
  const uint16_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  // 65520 is half way between the largest number and the next.
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;
  if (magnitude >= 0x38800000u) {  // 2^-14, the least normal number
    const uint32_t half = 0xfffu + ((magnitude >> 13) & 1u);
    return sign | static_cast<uint16_t>((magnitude + half - 0x38000000u) >> 13);
  }
  // Counts of 2^-24, in integers: a flushing thread gets it right too.
  const uint32_t exponent = magnitude >> 23;
  if (exponent < 102) return sign;  // below half of 2^-24
  const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t shift = 126 - exponent;
  const uint32_t count = mantissa >> shift;
  const uint32_t rest = mantissa & ((1u << shift) - 1);
  const uint32_t middle = 1u << (shift - 1);
  const bool up = rest > middle || (rest == middle && (count & 1u) != 0);
  return sign | static_cast<uint16_t>(count + (up ? 1 : 0));
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
        target[i] = WidenBFloat16(LoadUint16(tensor.data, first + i));
      }
      return;
    case DataType::kFloat16:
      for (int64_t i = 0; i < count; ++i) {
        target[i] = WidenFloat16(LoadUint16(tensor.data, first + i));
      }
      return;
  }
}

int64_t FirstNonFinite(const Tensor& tensor) {
  const int64_t count = tensor.elements();
  switch (tensor.type) {
    case DataType::kFloat32:
      return FirstWithExponent<uint32_t>(tensor.data, count, kExponent);
    case DataType::kBFloat16:
      return FirstWithExponent<uint16_t>(tensor.data, count, 0x7f80);
    case DataType::kFloat16:
      return FirstWithExponent<uint16_t>(tensor.data, count, 0x7c00);
  }
  return -1;
}

int64_t FirstNonFinite(absl::Span<const float> values) {
  return FirstWithExponent<uint32_t>(values.data(), values.size(), kExponent);
}

std::vector<float> WidenToFloat32(const Tensor& tensor) {
  std::vector<float> values(tensor.elements());
  WidenToFloat32(tensor, 0, absl::MakeSpan(values));
  return values;
}

}  // namespace engram
