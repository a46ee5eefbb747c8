#include "kernels/int4_scale.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/tensor.h"
#include "kernels/weight_values.h"

namespace engram {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

struct Kept {
  Int4Scale scale;
  std::vector<uint8_t> integers;
  std::vector<float> values;
};

Kept KeptWith(const std::vector<float>& values, Int4Scale scale) {
  Kept kept = {scale, std::vector<uint8_t>(values.size()), {}};
  RoundToInt4(values, scale, kept.integers.data());
  for (const uint8_t integer : kept.integers) {
    kept.values.push_back(WidenInt4(integer, scale.scale, scale.minimum));
  }
  return kept;
}
Kept KeptAs(const std::vector<float>& values) {
  return KeptWith(values, FitInt4Scale(values));
}

double ErrorOf(const std::vector<float>& values, const Kept& kept) {
  double error = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    error += std::pow(static_cast<double>(values[i]) - kept.values[i], 2);
  }
  return error;
}

std::vector<float> Normal(std::mt19937* random, size_t count, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(*random);
  return values;
}

TEST(Int4Scale, TakesTheNearestOf16StepsTiesToEven) {
  const Int4Scale scale = {NarrowToFloat16(2), NarrowToFloat16(-6)};
  EXPECT_THAT(
      KeptWith({-100, -6, -5.1f, -5, -4.9f, -3, 0, 23.9f, 24, 100}, scale)
          .integers,
      ElementsAre(0, 0, 0, 0, 1, 2, 3, 15, 15, 15));
}

TEST(Int4Scale, KeepsWhatIsOnAGridOf16Steps) {
  std::vector<float> values;
  for (int i = 0; i < 32; ++i) {
    values.push_back(0.375f - 0.125f * static_cast<float>(i * 5 % 16));
  }
  EXPECT_EQ(KeptAs(values).values, values);
}

TEST(Int4Scale, KeepsAGroupOfOneValue) {
  for (const float value : {0.0f, 1.0f, -0.5f, 65504.0f, -65504.0f}) {
    EXPECT_EQ(KeptAs(std::vector<float>(32, value)).values,
              std::vector<float>(32, value));
    EXPECT_THAT(KeptAs({value}).values, ElementsAre(value));
  }
}

TEST(Int4Scale, IsNeverWorseThanFromTheLeastToTheLargest) {
  std::mt19937 random(1);
  double fitted = 0, plain = 0;
  for (int i = 0; i < 500; ++i) {
    const size_t count = i % 5 == 0 ? 1 + i % 32 : 32;
    const std::vector<float> values =
        Normal(&random, count, std::ldexp(1.0f, i % 20 - 10));
    const float least = *std::min_element(values.begin(), values.end());
    const float largest = *std::max_element(values.begin(), values.end());
    const float begin = WidenFloat16(NarrowToFloat16(least));
    const Int4Scale all = {
        NarrowToFloat16(std::max(0.0f, (largest - begin) / 15)),
        NarrowToFloat16(least)};
    const double error = ErrorOf(values, KeptAs(values));
    const double all_error = ErrorOf(values, KeptWith(values, all));
    EXPECT_LE(error, all_error * (1 + 1e-5));
    if (all_error == 0) continue;
    fitted += error / all_error;
    plain += 1;
  }
  // On the whole a good deal better.
  EXPECT_LT(fitted, 0.92 * plain);
}

TEST(Int4Scale, HasNoLargerErrorThanHalfAStepBetweenItsEnds) {
  std::mt19937 random(2);
  for (int i = 0; i < 100; ++i) {
    const std::vector<float> values = Normal(&random, 32, 1);
    const Kept kept = KeptAs(values);
    const float step = WidenFloat16(kept.scale.scale);
    for (size_t k = 0; k < values.size(); ++k) {
      if (kept.integers[k] == 0 || kept.integers[k] == 15) continue;
      EXPECT_LE(std::abs(values[k] - kept.values[k]), step * 0.5001f);
    }
  }
}

TEST(Int4Scale, TakesWhatFloat16HasNoStepsForAsOneValue) {
  const float denormal = std::numeric_limits<float>::denorm_min();
  EXPECT_THAT(KeptAs({denormal, -denormal, 1e-39f, 0, 1e-9f}).values, Each(0));
  // Steps of 2^-24 are the finest.
  std::vector<float> values;
  for (int i = 0; i < 16; ++i) {
    values.push_back(std::ldexp(static_cast<float>(i), -24));
  }
  EXPECT_EQ(KeptAs(values).values, values);
}

TEST(Int4Scale, KeepsNumbersFromTheLeastOfFloat16ToTheLargest) {
  std::vector<float> values(32, 65504);
  values[7] = -65504;
  values[9] = 65519;
  const Kept kept = KeptAs(values);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_TRUE(std::isfinite(kept.values[i]));
    EXPECT_NEAR(kept.values[i], values[i], 65504 / 15.0);
  }
}

}  // namespace
}  // namespace engram
