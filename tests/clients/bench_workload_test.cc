#include "clients/cpp/bench_workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace engram::client {
namespace {

using ::testing::Each;
using ::testing::Ge;
using ::testing::Lt;

TEST(ParseLengthRange, ReadsLengthsAndRanges) {
  EXPECT_EQ(ToString(*ParseLengthRange("128")), "128");
  EXPECT_EQ(ToString(*ParseLengthRange("64..256")), "64..256");
  EXPECT_EQ(ToString(*ParseLengthRange("0")), "0");
  for (const char* wrong : {"", "x", "5..2", "-1", "1..", "..3", "1-3"}) {
    EXPECT_FALSE(ParseLengthRange(wrong).ok()) << wrong;
  }
}

TEST(DrawTurn, StaysInItsRanges) {
  int32_t shortest = 100;
  int32_t longest = 0;
  for (int i = 0; i < 1000; ++i) {
    const BenchTurn turn = DrawTurn(1, i, 0, {2, 5}, {7, 7}, 16);
    const auto length = static_cast<int32_t>(turn.prompt.size());
    shortest = std::min(shortest, length);
    longest = std::max(longest, length);
    EXPECT_EQ(turn.output_tokens, 7);
    EXPECT_THAT(turn.prompt, Each(Ge(0)));
    EXPECT_THAT(turn.prompt, Each(Lt(16)));
  }
  EXPECT_EQ(shortest, 2);
  EXPECT_EQ(longest, 5);
}

TEST(DrawTurn, DependsOnSeedAndPlaceOnly) {
  const auto prompt = [](uint64_t seed, int64_t conversation, int64_t turn) {
    return DrawTurn(seed, conversation, turn, {50, 50}, {1, 1}, 50'000).prompt;
  };
  EXPECT_EQ(prompt(1, 2, 3), prompt(1, 2, 3));
  EXPECT_NE(prompt(1, 2, 3), prompt(2, 2, 3));
  EXPECT_NE(prompt(1, 2, 3), prompt(1, 3, 3));
  EXPECT_NE(prompt(1, 2, 3), prompt(1, 2, 4));
}

TEST(DrawArrivalGap, IsExponential) {
  constexpr int kGaps = 20'000;
  constexpr double kRate = 50;
  double sum = 0;
  int longer_than_mean = 0;
  for (int i = 0; i < kGaps; ++i) {
    const double seconds =
        std::chrono::duration<double>(DrawArrivalGap(7, i, kRate)).count();
    sum += seconds;
    longer_than_mean += seconds > 1 / kRate;
  }
  // Five standard errors.
  EXPECT_NEAR(sum / kGaps, 1 / kRate, 5 / kRate / std::sqrt(kGaps));
  EXPECT_NEAR(longer_than_mean / static_cast<double>(kGaps), std::exp(-1),
              5 * 0.5 / std::sqrt(kGaps));
}

}  // namespace
}  // namespace engram::client
