#include "tests/cuda_emulation/device/matrix_product.h"

#include <algorithm>
#include <cmath>

#include "emulated_device.h"
#include "tests/cuda_emulation/device/fused_sum.h"

namespace engram::emulation {
namespace {

constexpr int kRows = 16;
constexpr int kColumns = 8;
constexpr int kDepth = kFusedProducts;
constexpr int kLanes = 32;

struct Matrices {
  float a[kRows][kDepth];
  float b[kDepth][kColumns];
  float acc[kRows][kColumns];
};

float Widen(bool is_float16, uint32_t pair, int element) {
  const uint16_t bits = static_cast<uint16_t>(pair >> (16 * element));
  return is_float16 ? cuda::WidenF16(bits) : cuda::WidenBf16(bits);
}

void Gather(bool is_float16, const MatrixOperands* lanes, Matrices& m) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4;
    const int quad = lane % 4;
    for (int i = 0; i < 2; ++i) {
      const int k = 2 * quad + i;
      m.a[group][k] = Widen(is_float16, lanes[lane].a[0], i);
      m.a[group + 8][k] = Widen(is_float16, lanes[lane].a[1], i);
      m.a[group][k + 8] = Widen(is_float16, lanes[lane].a[2], i);
      m.a[group + 8][k + 8] = Widen(is_float16, lanes[lane].a[3], i);
      m.b[k][group] = Widen(is_float16, lanes[lane].b[0], i);
      m.b[k + 8][group] = Widen(is_float16, lanes[lane].b[1], i);
      m.acc[group][k] = lanes[lane].acc[i];
      m.acc[group + 8][k] = lanes[lane].acc[2 + i];
    }
  }
}

void Scatter(const Matrices& m, MatrixOperands* lanes) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4;
    for (int i = 0; i < 2; ++i) {
      const int column = 2 * (lane % 4) + i;
      lanes[lane].acc[i] = m.acc[group][column];
      lanes[lane].acc[2 + i] = m.acc[group + 8][column];
    }
  }
}

void SumInOrder(Matrices& m) {
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      // A product of two 16-bit values is exact in float32.
      for (int column = 0; column < kColumns; ++column) {
        m.acc[row][column] += m.a[row][k] * m.b[k][column];
      }
    }
  }
}

// What is not finite stays so in any order. It is nothing to other rows and
// columns.
float SumOfFinite(bool is_float16, const float (&a)[kDepth],
                  const float (&b)[kDepth], float acc) {
  const auto finite = [](float x) { return std::isfinite(x); };
  if (std::isfinite(acc) && std::all_of(a, a + kDepth, finite) &&
      std::all_of(b, b + kDepth, finite)) {
    return FusedSum(is_float16, a, b, acc);
  }
  for (int k = 0; k < kDepth; ++k) acc += a[k] * b[k];
  return acc;
}

void SumFused(bool is_float16, Matrices& m) {
  for (int column = 0; column < kColumns; ++column) {
    float b[kDepth];
    for (int k = 0; k < kDepth; ++k) b[k] = m.b[k][column];
    for (int row = 0; row < kRows; ++row) {
      float& acc = m.acc[row][column];
      acc = SumOfFinite(is_float16, m.a[row], b, acc);
    }
  }
}

}  // namespace

void MultiplyAdd(bool is_float16, bool fused, MatrixOperands* lanes) {
  Matrices m;
  Gather(is_float16, lanes, m);
  if (fused) {
    SumFused(is_float16, m);
  } else {
    SumInOrder(m);
  }
  Scatter(m, lanes);
}

}  // namespace engram::emulation
