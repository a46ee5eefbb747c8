// 16-bit numbers and products of a warp, as the device's instructions have
// them.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "emulated_device.h"
#include "gtest/gtest.h"
#include "tests/cuda_emulation/device/matrix_product.h"

namespace engram::emulation {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(NumbersTest, EveryFloat16ThatIsWidenedIsNarrowedToItself) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float wide = cuda::WidenF16(half);
    if ((half & 0x7fff) > 0x7c00) {
      EXPECT_TRUE(std::isnan(wide));
      EXPECT_EQ(cuda::NarrowF16Saturated(wide), 0x7fff);
    } else if ((half & 0x7fff) == 0x7c00) {
      EXPECT_TRUE(std::isinf(wide));
      EXPECT_EQ(cuda::NarrowF16Saturated(wide), (half & 0x8000) | 0x7bff);
    } else {
      EXPECT_EQ(cuda::NarrowF16Saturated(wide), half);
    }
  }
}

TEST(NumbersTest, Float16IsTheNearestWithTiesToEven) {
  // Between neighbours: the even one in the middle, else the nearer.
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = cuda::WidenF16(static_cast<uint16_t>(bits));
    const float high = cuda::WidenF16(static_cast<uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;
    EXPECT_EQ(cuda::NarrowF16Saturated(middle), bits + (bits & 1));
    EXPECT_EQ(cuda::NarrowF16Saturated(std::nextafter(middle, low)), bits);
    EXPECT_EQ(cuda::NarrowF16Saturated(-std::nextafter(middle, high)),
              0x8000 | (bits + 1));
  }
  EXPECT_EQ(cuda::NarrowF16Saturated(1e9f), 0x7bff);
}

TEST(NumbersTest, EverySignedByteIsAFloat16) {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const uint32_t others = 0x7f0180ff;
    for (int place = 0; place < 4; ++place) {
      const uint32_t bytes =
          (others & ~(0xffu << 8 * place)) | byte << 8 * place;
      const uint2 halves = cuda::WidenInt8(bytes);
      const uint32_t pair = place < 2 ? halves.x : halves.y;
      EXPECT_EQ(cuda::WidenF16(static_cast<uint16_t>(pair >> 16 * (place % 2))),
                static_cast<int8_t>(byte));
    }
  }
}

TEST(NumbersTest, Bfloat16IsTheNearestWithTiesToEven) {
  for (uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const auto low = static_cast<uint16_t>(bits);
    const float wide = cuda::WidenBf16(low);
    EXPECT_EQ(cuda::NarrowBf16(wide), low);
    const float middle =
        std::bit_cast<float>(std::bit_cast<uint32_t>(wide) + 0x8000);
    EXPECT_EQ(cuda::NarrowBf16(middle), bits + (bits & 1));
    EXPECT_EQ(cuda::NarrowBf16(std::nextafter(middle, kInfinity)), bits + 1);
  }
  EXPECT_EQ(cuda::NarrowBf16(std::nanf("")), 0x7fff);
}

// A product whose matrices are told by element.
struct Product {
  float a[16][16] = {};
  float b[16][8] = {};
  float acc[16][8] = {};

  void Run(bool is_float16, bool fused) {
    const auto pair = [&](float low, float high) {
      const auto narrow =
          is_float16 ? cuda::NarrowF16Saturated : cuda::NarrowBf16;
      return uint32_t{narrow(low)} | uint32_t{narrow(high)} << 16;
    };
    MatrixOperands lanes[32];
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4;
      const int k = lane % 4 * 2;
      lanes[lane] = {
          {pair(a[g][k], a[g][k + 1]), pair(a[g + 8][k], a[g + 8][k + 1]),
           pair(a[g][k + 8], a[g][k + 9]),
           pair(a[g + 8][k + 8], a[g + 8][k + 9])},
          {pair(b[k][g], b[k + 1][g]), pair(b[k + 8][g], b[k + 9][g])},
          {acc[g][k], acc[g][k + 1], acc[g + 8][k], acc[g + 8][k + 1]}};
    }
    MultiplyAdd(is_float16, fused, lanes);
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4;
      const int column = lane % 4 * 2;
      for (int i = 0; i < 2; ++i) {
        acc[g][column + i] = lanes[lane].acc[i];
        acc[g + 8][column + i] = lanes[lane].acc[2 + i];
      }
    }
  }
};

TEST(NumbersTest, AProductOfSmallIntegersIsExact) {
  for (const bool is_float16 : {false, true}) {
    for (const bool fused : {false, true}) {
      std::mt19937 random(7);
      std::uniform_int_distribution<int> integer(-8, 8);
      Product product;
      for (auto& row : product.a) {
        for (float& x : row) x = static_cast<float>(integer(random));
      }
      for (auto& row : product.b) {
        for (float& x : row) x = static_cast<float>(integer(random));
      }
      for (auto& row : product.acc) {
        for (float& x : row) x = static_cast<float>(integer(random));
      }
      Product expected = product;
      for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < 8; ++column) {
          for (int k = 0; k < 16; ++k) {
            expected.acc[row][column] +=
                product.a[row][k] * product.b[k][column];
          }
        }
      }
      product.Run(is_float16, fused);
      for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < 8; ++column) {
          EXPECT_EQ(product.acc[row][column], expected.acc[row][column])
              << row << " " << column << " " << is_float16 << " " << fused;
        }
      }
    }
  }
}

TEST(NumbersTest, SumsInOrderRoundEachStep) {
  Product product;
  product.a[0][0] = product.a[0][1] = 1;
  product.b[0][0] = product.b[1][0] = 1;
  product.acc[0][0] = 0x1p24f;
  product.Run(/*is_float16=*/false, /*fused=*/false);
  EXPECT_EQ(product.acc[0][0], 0x1p24f) << "each 1 by itself is lost";
}

TEST(NumbersTest, FusedSumsKeep25BitsAndCutOffTheRest) {
  Product product;
  product.a[0][0] = product.a[0][1] = 1;
  product.b[0][0] = product.b[1][0] = 1;
  product.acc[0][0] = 0x1p24f;
  // Below the last of 25 bits, which three of them would make up.
  for (int k = 0; k < 4; ++k) {
    product.a[1][k] = 1;
    product.b[k][1] = 0x1p-26f;
  }
  product.acc[1][1] = 1;
  // Cut towards zero where it becomes float32.
  product.a[2][0] = 1;
  product.b[0][2] = 1;
  product.acc[2][2] = -(0x1p24f + 2);
  product.Run(/*is_float16=*/false, /*fused=*/true);
  EXPECT_EQ(product.acc[0][0], 0x1p24f + 2) << "together they are not lost";
  EXPECT_EQ(product.acc[1][1], 1);
  EXPECT_EQ(product.acc[2][2], -0x1p24f);
}

}  // namespace
}  // namespace engram::emulation
