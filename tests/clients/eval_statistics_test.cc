#include "clients/cpp/eval_statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram::client {
namespace {

using ::testing::DoubleNear;

// 81 of 263 is the example of Newcombe (Statistics in Medicine 17, 1998); the
// others are worked out by hand from Wilson's formula.
TEST(WilsonInterval, HasTheKnownValues) {
  struct Case {
    int64_t right;
    int64_t count;
    double low;
    double high;
  };
  for (const Case& known : {
           Case{0, 10, 0, 0.277533},
           Case{5, 10, 0.236593, 0.763407},
           Case{8, 10, 0.490162, 0.943318},
           Case{10, 10, 0.722467, 1},
           Case{81, 263, 0.255286, 0.366213},
           Case{1000, 1000, 0.996173, 1},
       }) {
    const Interval interval = WilsonInterval(known.right, known.count);
    EXPECT_THAT(interval.low, DoubleNear(known.low, 1e-4)) << known.right;
    EXPECT_THAT(interval.high, DoubleNear(known.high, 1e-4)) << known.right;
  }
}

TEST(WilsonInterval, OfNothingIsEverything) {
  EXPECT_EQ(WilsonInterval(0, 0).low, 0);
  EXPECT_EQ(WilsonInterval(0, 0).high, 1);
}

TEST(WilsonInterval, HoldsTheRateAndShrinksWithTheCount) {
  double width = 1;
  for (int64_t count = 4; count <= 4096; count *= 4) {
    const Interval interval = WilsonInterval(count / 4, count);
    EXPECT_LT(interval.low, 0.25);
    EXPECT_GT(interval.high, 0.25);
    EXPECT_LT(interval.high - interval.low, width);
    width = interval.high - interval.low;
  }
}

}  // namespace
}  // namespace engram::client
