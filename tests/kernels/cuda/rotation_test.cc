#include "kernels/cuda/rotation.h"

#include <cmath>
#include <cstdint>

#include "gtest/gtest.h"

namespace engram::cuda {
namespace {

void ExpectIsTurnedBy(double angle) {
  const Turn turn = TurnBy(angle);
  EXPECT_NEAR(turn.cosine, std::cos(angle), 6e-8) << "cos " << angle;
  EXPECT_NEAR(turn.sine, std::sin(angle), 6e-8) << "sin " << angle;
}

TEST(Rotation, IsThatOfTheAngleInEveryQuarter) {
  EXPECT_EQ(TurnBy(0.0).cosine, 1.0f);
  EXPECT_EQ(TurnBy(0.0).sine, 0.0f);
  for (double angle = -10.0; angle < 30.0; angle += 0.00917) {
    ExpectIsTurnedBy(angle);
  }
}

TEST(Rotation, IsThatOfSmallAnglesRelativeToTheirSize) {
  for (double angle = 1e-12; angle < 0.5; angle *= 1.7) {
    EXPECT_NEAR(TurnBy(angle).sine, std::sin(angle), 6e-8 * angle) << angle;
  }
}

TEST(Rotation, IsThatOfTheFarthestPositions) {
  for (const double frequency : {1.0, 0.8659643233600653, 0.0001}) {
    for (int64_t position = 1; position < int64_t{1} << 31;
         position += position / 7 + 1) {
      ExpectIsTurnedBy(static_cast<double>(position) * frequency);
    }
  }
}

}  // namespace
}  // namespace engram::cuda
