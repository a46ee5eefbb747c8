#include "tests/cuda_emulation/device/fused_sum.h"

#include <algorithm>
#include <cmath>

namespace engram::emulation {
namespace {

constexpr int kFractionBits = 25;
// Subnormal numbers are not moved up to a leading one.
constexpr int kLeastFloat16Exponent = -14;
constexpr int kLeastFloat32Exponent = -126;

int Exponent(float x, int least) {
  return x == 0 ? least : std::max(std::ilogb(x), least);
}

// Towards zero.
float Truncate(double x) {
  float nearest = static_cast<float>(x);
  if (std::isfinite(nearest) && std::abs(double{nearest}) > std::abs(x)) {
    nearest = std::nextafter(nearest, 0.0f);
  }
  return nearest;
}

}  // namespace

float FusedSum(bool is_float16, const float* a, const float* b, float acc) {
  const int least = is_float16 ? kLeastFloat16Exponent : kLeastFloat32Exponent;
  int largest = Exponent(acc, kLeastFloat32Exponent);
  for (int k = 0; k < kFusedProducts; ++k) {
    if (a[k] == 0 || b[k] == 0) continue;
    largest = std::max(largest, Exponent(a[k], least) + Exponent(b[k], least));
  }
  const int shift = kFractionBits - largest;
  // In float64 products are exact, and so are sums of what is left of them.
  double sum = std::trunc(std::ldexp(double{acc}, shift));
  for (int k = 0; k < kFusedProducts; ++k) {
    sum += std::trunc(std::ldexp(double{a[k]} * b[k], shift));
  }
  return Truncate(std::ldexp(sum, -shift));
}

}  // namespace engram::emulation
