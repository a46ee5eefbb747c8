#include "kernels/tensor.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::ElementsAre;

TEST(Tensor, NamesAndSizesOfTypes) {
  EXPECT_EQ(DataTypeBytes(DataType::kFloat32), 4u);
  EXPECT_EQ(DataTypeBytes(DataType::kBFloat16), 2u);
  EXPECT_EQ(DataTypeBytes(DataType::kFloat16), 2u);
  EXPECT_STREQ(DataTypeName(DataType::kFloat32), "F32");
  EXPECT_STREQ(DataTypeName(DataType::kBFloat16), "BF16");
  EXPECT_STREQ(DataTypeName(DataType::kFloat16), "F16");
}

TEST(Tensor, CountsElements) {
  EXPECT_EQ((Tensor{DataType::kFloat32, {3, 4}, nullptr}.elements()), 12);
  EXPECT_EQ((Tensor{DataType::kFloat32, {3, 0}, nullptr}.elements()), 0);
  EXPECT_EQ((Tensor{DataType::kFloat32, {}, nullptr}.elements()), 1);
}

TEST(Tensor, PrintsShapes) {
  EXPECT_EQ(ShapeToString({24, 1536}), "[24, 1536]");
  EXPECT_EQ(ShapeToString({}), "[]");
}

TEST(Tensor, WidensUnalignedFloat32) {
  const std::vector<float> values = {1.5f, -2.0f};
  std::vector<char> bytes(1 + 8);
  std::memcpy(bytes.data() + 1, values.data(), 8);
  EXPECT_EQ(WidenToFloat32({DataType::kFloat32, {2}, bytes.data() + 1}),
            values);
}

TEST(Tensor, FindsTheFirstElementThatIsNotFinite) {
  const auto first = [](DataType type, int64_t at, int64_t bits) {
    const int64_t count = 10'000;
    // Behind one byte, so that the elements are not aligned.
    std::vector<char> bytes(1 + count * DataTypeBytes(type), '\1');
    for (int64_t index : {at, count - 1}) {
      std::memcpy(bytes.data() + 1 + index * DataTypeBytes(type), &bits,
                  DataTypeBytes(type));
    }
    return FirstNonFinite({type, {100, 100}, bytes.data() + 1});
  };
  for (const int64_t at : {0, 1, 4095, 4096, 9998}) {
    for (const int64_t bits :
         std::vector<int64_t>{0x7f800000, 0x7f800001, 0xffc00000}) {
      EXPECT_EQ(first(DataType::kFloat32, at, bits), at);
    }
    for (const int64_t bits : {0x7f80, 0xff80, 0x7fff}) {
      EXPECT_EQ(first(DataType::kBFloat16, at, bits), at);
    }
    for (const int64_t bits : {0x7c00, 0xfc00, 0x7e01}) {
      EXPECT_EQ(first(DataType::kFloat16, at, bits), at);
    }
  }
  EXPECT_EQ(first(DataType::kFloat32, 5, 0x7f7fffff), -1);
  EXPECT_EQ(first(DataType::kBFloat16, 5, 0x7f7f), -1);
  EXPECT_EQ(first(DataType::kFloat16, 5, 0x7bff), -1);
}

TEST(Tensor, WidensBFloat16) {
  const std::vector<uint16_t> bits = {0x3f80, 0xbfc0, 0x7f80, 0x0001};
  EXPECT_THAT(WidenToFloat32({DataType::kBFloat16, {4}, bits.data()}),
              ElementsAre(1.0f, -1.5f, std::numeric_limits<float>::infinity(),
                          0x1p-133f));
}

TEST(Tensor, WidensEveryFloat16) {
  std::vector<uint16_t> bits(1 << 16);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  const std::vector<float> values =
      WidenToFloat32({DataType::kFloat16, {1 << 16}, bits.data()});
  for (size_t i = 0; i < bits.size(); ++i) {
    const int exponent = static_cast<int>(i >> 10) & 31;
    const int mantissa = static_cast<int>(i) & 1023;
    if (exponent == 31 && mantissa != 0) {
      EXPECT_TRUE(std::isnan(values[i]));
      continue;
    }
    double expected = exponent == 0
                          ? std::ldexp(mantissa, -24)
                          : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) expected = std::numeric_limits<double>::infinity();
    EXPECT_EQ(values[i], (i >> 15) != 0 ? -expected : expected) << i;
    EXPECT_EQ(std::signbit(values[i]), (i >> 15) != 0) << i;
  }
}

// The nearest of two numbers that a format has beside each other, by distances
// in double; at equal distances the one whose last bit is 0.
uint16_t NearestOf(float value, uint16_t low, double low_value, uint16_t high,
                   double high_value) {
  const double below = value - low_value, above = high_value - value;
  if (below == above) return (low & 1) == 0 ? low : high;
  return below < above ? low : high;
}

TEST(Tensor, NarrowingUndoesWidening) {
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    const float half = WidenFloat16(bits);
    if (std::isnan(half)) {
      EXPECT_TRUE(std::isnan(WidenFloat16(NarrowToFloat16(half)))) << i;
    } else {
      EXPECT_EQ(NarrowToFloat16(half), bits) << i;
    }
    const float brain = WidenBFloat16(bits);
    if (std::isnan(brain)) {
      EXPECT_TRUE(std::isnan(WidenBFloat16(NarrowToBFloat16(brain)))) << i;
    } else {
      EXPECT_EQ(NarrowToBFloat16(brain), bits) << i;
    }
  }
}

TEST(Tensor, NarrowsToTheNearestAndTiesToEven) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> share(0, 1);
  for (uint32_t i = 0; i < 0x7bff; ++i) {  // the largest float16 is 0x7bff
    const auto low = static_cast<uint16_t>(i);
    const auto high = static_cast<uint16_t>(i + 1);
    const float a = WidenFloat16(low), b = WidenFloat16(high);
    for (const float between : {a + (b - a) / 2, a + (b - a) * share(random)}) {
      EXPECT_EQ(NarrowToFloat16(between), NearestOf(between, low, a, high, b));
      EXPECT_EQ(NarrowToFloat16(-between),
                0x8000 | NearestOf(between, low, a, high, b));
    }
  }
  for (uint32_t i = 0x0080; i < 0x7f7f; ++i) {  // normal numbers
    const auto low = static_cast<uint16_t>(i);
    const auto high = static_cast<uint16_t>(i + 1);
    const float a = WidenBFloat16(low), b = WidenBFloat16(high);
    for (const float between : {a + (b - a) / 2, a + (b - a) * share(random)}) {
      EXPECT_EQ(NarrowToBFloat16(between), NearestOf(between, low, a, high, b));
    }
  }
}

TEST(Tensor, NarrowsWhatIsTooLargeToInfinity) {
  EXPECT_EQ(NarrowToFloat16(65519), 0x7bff);
  EXPECT_EQ(NarrowToFloat16(65520), 0x7c00);
  EXPECT_EQ(NarrowToFloat16(-1e9f), 0xfc00);
  EXPECT_EQ(NarrowToBFloat16(std::numeric_limits<float>::max()), 0x7f80);
}

TEST(Tensor, WidensAPart) {
  const std::vector<float> values = {1, 2, 3, 4};
  std::vector<float> part(2);
  WidenToFloat32({DataType::kFloat32, {2, 2}, values.data()}, 1,
                 absl::MakeSpan(part));
  EXPECT_THAT(part, ElementsAre(2, 3));
}

}  // namespace
}  // namespace engram
