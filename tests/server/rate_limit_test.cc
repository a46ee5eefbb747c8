#include "server/rate_limit.h"

#include <algorithm>
#include <limits>

#include "gtest/gtest.h"

namespace engram {
namespace {

class RateLimitTest : public ::testing::Test {
 protected:
  explicit RateLimitTest(double per_second = 10) { rate_.Set(per_second); }
  // All that there is. Returns how much that is.
  int64_t TakeAll() {
    const int64_t available = rate_.Available(now_);
    rate_.Take(available);
    return available;
  }

  absl::Time now_ = absl::FromUnixSeconds(1700000000);
  RateLimit rate_;
};

TEST_F(RateLimitTest, HoldsHalfASecondAtFirstAndAfterAnyRest) {
  EXPECT_EQ(TakeAll(), 5);
  EXPECT_EQ(TakeAll(), 0);
  now_ += absl::Hours(1);
  EXPECT_EQ(TakeAll(), 5);
}

TEST_F(RateLimitTest, FillsAtItsRate) {
  TakeAll();
  now_ += absl::Milliseconds(99);
  EXPECT_EQ(rate_.Available(now_), 0);
  EXPECT_EQ(rate_.TimeToNext(now_), absl::Milliseconds(1));
  now_ += absl::Milliseconds(1);
  EXPECT_EQ(rate_.Available(now_), 1);
  EXPECT_EQ(rate_.TimeToNext(now_), absl::ZeroDuration());
  now_ += absl::Milliseconds(300);
  EXPECT_EQ(TakeAll(), 4);
}

TEST_F(RateLimitTest, WaitsUntilWhatWasTooMuchIsPaid) {
  TakeAll();
  rate_.Take(20);
  EXPECT_EQ(rate_.Debt(now_), 20);
  EXPECT_EQ(rate_.TimeToNext(now_), absl::Milliseconds(2100));
  now_ += absl::Seconds(2);
  EXPECT_EQ(rate_.Available(now_), 0);
  EXPECT_EQ(rate_.Debt(now_), 0);
  now_ += absl::Milliseconds(100);
  EXPECT_EQ(rate_.Available(now_), 1);
}

TEST_F(RateLimitTest, IsPaidBackWhatWasNotUsed) {
  TakeAll();
  rate_.GiveBack(3);
  EXPECT_EQ(rate_.Available(now_), 3);
}

TEST_F(RateLimitTest, HoldsForAnyMixOfAmountsAndPauses) {
  constexpr absl::Duration kTime = absl::Seconds(20);
  for (double rate : {0.7, 9.0, 333.3, 50000.0}) {
    RateLimit limit;
    limit.Set(rate);
    int64_t taken = 0;
    const absl::Time begin = now_;
    for (int i = 1; now_ < begin + kTime; ++i) {
      const int64_t amount = std::min<int64_t>(limit.Available(now_), i % 7);
      limit.Take(amount);
      taken += amount;
      // Never so long that the bucket would run over.
      now_ = std::min(now_ + absl::Microseconds(20 + i % 13), begin + kTime);
    }
    EXPECT_NEAR(taken, 20 * rate, std::max(2.0, 20 * rate * 0.026)) << rate;
  }
}

TEST_F(RateLimitTest, LetsOneComeHoweverLowItIs) {
  rate_.Set(0.25);
  EXPECT_EQ(TakeAll(), 1);
  now_ += absl::Milliseconds(3999);
  EXPECT_EQ(TakeAll(), 0);
  now_ += absl::Milliseconds(1);
  EXPECT_EQ(TakeAll(), 1);
}

TEST_F(RateLimitTest, KeepsWhatThereIsWhenItChanges) {
  rate_.Set(100);
  EXPECT_EQ(rate_.Available(now_), 5);
  now_ += absl::Seconds(1);
  EXPECT_EQ(rate_.Available(now_), 50);
  rate_.Set(2);
  EXPECT_EQ(rate_.Available(now_), 1);
}

TEST_F(RateLimitTest, IsNoneUntilItIsSet) {
  RateLimit none;
  EXPECT_EQ(none.Available(now_), std::numeric_limits<int64_t>::max());
  none.Take(1000);
  EXPECT_EQ(none.Debt(now_), 0);
  EXPECT_EQ(none.TimeToNext(now_), absl::ZeroDuration());
  none.Set(10);
  EXPECT_EQ(none.Available(now_), 5);
  none.Set(std::nullopt);
  EXPECT_EQ(none.Available(now_), std::numeric_limits<int64_t>::max());
}

TEST_F(RateLimitTest, NeverComesBackFromNothing) {
  rate_.Set(0);
  TakeAll();
  EXPECT_EQ(rate_.TimeToNext(now_), absl::InfiniteDuration());
}

TEST_F(RateLimitTest, TakesNothingAwayWhenTheClockIsSetBack) {
  TakeAll();
  now_ -= absl::Hours(1);
  EXPECT_EQ(rate_.Available(now_), 0);
  now_ += absl::Milliseconds(200);
  EXPECT_EQ(rate_.Available(now_), 2);
}

}  // namespace
}  // namespace engram
