// Conversions of 16-bit numbers, as the device's instructions do them.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "emulated_device.h"
#include "kernels/tensor.h"

namespace engram::cuda {
namespace {

// Every NaN.
constexpr uint16_t kNoNumber = 0x7fff;

}  // namespace

float WidenF16(uint16_t x) { return WidenFloat16(x); }

uint16_t NarrowBf16(float x) {
  return std::isnan(x) ? kNoNumber : NarrowToBFloat16(x);
}

uint16_t NarrowF16Saturated(float x) {
  constexpr float kLargest = 65504;
  return std::isnan(x) ? kNoNumber
                       : NarrowToFloat16(std::clamp(x, -kLargest, kLargest));
}

uint2 WidenInt8(uint32_t bytes) {
  const auto half = [bytes](int index) -> uint32_t {
    return NarrowToFloat16(static_cast<int8_t>(bytes >> 8 * index));
  };
  return {half(0) | half(1) << 16, half(2) | half(3) << 16};
}

}  // namespace engram::cuda
