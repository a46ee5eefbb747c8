// Conversions of 16-bit numbers, as the device's instructions do them.
#include <bit>
#include <cmath>
#include <cstdint>

#include "emulated_device.h"

namespace engram::cuda {

float WidenF16(uint16_t x) {
  const uint32_t sign = uint32_t{x & 0x8000u} << 16;
  const uint32_t exponent = (x >> 10) & 0x1f;
  const uint32_t fraction = x & 0x3ff;
  if (exponent == 0x1f) {
    return std::bit_cast<float>(sign | 0x7f800000 | (fraction << 13));
  }
  if (exponent == 0) {
    const float value = static_cast<float>(fraction) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) |
                              (fraction << 13));
}

uint16_t NarrowBf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

uint16_t NarrowF16Saturated(float x) {
  constexpr uint32_t kLargest = 0x477fe000;   // 65504
  constexpr uint32_t kSmallest = 0x38800000;  // 2^-14, the last normal one
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= kLargest) return sign | 0x7bff;
  if (magnitude < kSmallest) {
    // The sum's last place is that of the smallest float16, 2^-24.
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return sign |
           static_cast<uint16_t>(std::bit_cast<uint32_t>(sum) - 0x3f000000);
  }
  const uint32_t rebased = magnitude - (112u << 23);
  return sign |
         static_cast<uint16_t>((rebased + 0xfff + ((rebased >> 13) & 1)) >> 13);
}

}  // namespace engram::cuda
