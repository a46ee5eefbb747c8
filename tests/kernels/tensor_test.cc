#include "kernels/tensor.h"

#include <cmath>
#include <cstring>
#include <limits>
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

TEST(Tensor, WidensAPart) {
  const std::vector<float> values = {1, 2, 3, 4};
  std::vector<float> part(2);
  WidenToFloat32({DataType::kFloat32, {2, 2}, values.data()}, 1,
                 absl::MakeSpan(part));
  EXPECT_THAT(part, ElementsAre(2, 3));
}

}  // namespace
}  // namespace engram
