#include "server/queue_time.h"

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

constexpr absl::Duration kLimit = absl::Seconds(2);

class QueueTimeTest : public ::testing::Test {
 protected:
  // One start after the other, `interval` apart, while others wait.
  void StartMany(int count, absl::Duration interval) {
    for (int i = 0; i < count; ++i) {
      now_ += interval;
      queue_.Started(now_, /*waiting=*/10);
    }
  }
  absl::Duration Expected(int requests, int64_t tokens = 0) {
    return queue_.Expected(now_, requests, tokens);
  }
  bool May(absl::Duration expected) {
    return !queue_.Forbids(now_, expected).has_value();
  }
  // Nobody could come without waiting for so long.
  void Stand(absl::Duration time) {
    for (int i = 0; i < 100; ++i) {
      now_ += time / 100;
      queue_.Forbids(now_, absl::Seconds(1));
    }
  }

  absl::Time now_ = absl::FromUnixSeconds(1700000000);
  QueueTime queue_{kLimit};
};

TEST_F(QueueTimeTest, ExpectsNothingBeforeAnythingWasMeasured) {
  EXPECT_EQ(Expected(0), absl::ZeroDuration());
  EXPECT_EQ(Expected(1000), absl::ZeroDuration());
}

TEST_F(QueueTimeTest, ExpectsAStartAtAnIntervalForEachThatWaits) {
  StartMany(20, absl::Milliseconds(10));
  EXPECT_EQ(Expected(0), absl::Milliseconds(10));
  EXPECT_EQ(Expected(9), absl::Milliseconds(100));
  queue_.SetLoad({.free_slots = 4, .time_per_prompt_token = {}});
  EXPECT_EQ(Expected(3), absl::ZeroDuration());
  EXPECT_EQ(Expected(9), absl::Milliseconds(60));
}

TEST_F(QueueTimeTest, FollowsTheTimeBetweenStarts) {
  StartMany(1000, absl::Milliseconds(10));
  StartMany(1000, absl::Milliseconds(50));
  EXPECT_NEAR(absl::ToDoubleMilliseconds(Expected(0)), 50, 1);
}

TEST_F(QueueTimeTest, ExpectsLittleOfAQueueThatDoesNotMove) {
  StartMany(20, absl::Milliseconds(10));
  now_ += absl::Seconds(3);
  EXPECT_GE(Expected(0), absl::Seconds(3));
}

TEST_F(QueueTimeTest, DoesNotCountTheTimeInWhichNobodyWaited) {
  StartMany(20, absl::Milliseconds(10));
  queue_.Started(now_, /*waiting=*/0);
  now_ += absl::Hours(1);
  queue_.Started(now_, /*waiting=*/5);
  EXPECT_LE(Expected(0), absl::Milliseconds(10));
  queue_.Emptied();
  now_ += absl::Hours(1);
  EXPECT_LE(Expected(0), absl::Milliseconds(10));
}

TEST_F(QueueTimeTest, AddsThePromptsThatAreFedBefore) {
  queue_.SetLoad(
      {.free_slots = 10, .time_per_prompt_token = absl::Microseconds(30)});
  EXPECT_EQ(Expected(0, 1000), absl::Milliseconds(30));
}

TEST_F(QueueTimeTest, LetsABurstWaitTheWholeLimit) {
  EXPECT_TRUE(May(absl::ZeroDuration()));
  EXPECT_TRUE(May(kLimit));
  EXPECT_FALSE(May(kLimit + absl::Milliseconds(1)));
}

TEST_F(QueueTimeTest, HoldsLessTheLongerRequestsHaveWaited) {
  Stand(absl::Milliseconds(250));
  EXPECT_TRUE(May(absl::Milliseconds(900)));
  EXPECT_FALSE(May(absl::Milliseconds(1200)));
  Stand(absl::Seconds(1));
  EXPECT_TRUE(May(kLimit / 16));
  EXPECT_FALSE(May(kLimit / 16 + absl::Milliseconds(1)));
  EXPECT_EQ(queue_.Forbids(now_, kLimit), kLimit / 16);
}

TEST_F(QueueTimeTest, LetsBurstsComeAgainAfterACalm) {
  Stand(absl::Seconds(1));
  queue_.NobodyWaits(now_);
  now_ += absl::Milliseconds(50);
  // A moment without waits is not a calm.
  EXPECT_FALSE(May(absl::Milliseconds(300)));
  queue_.NobodyWaits(now_);
  now_ += kLimit;
  EXPECT_TRUE(May(kLimit));
}

TEST(QueueTime, HasNoLimitIfItIsInfinite) {
  QueueTime queue(absl::InfiniteDuration());
  const absl::Time now = absl::FromUnixSeconds(1700000000);
  EXPECT_FALSE(queue.Forbids(now, absl::Hours(5)).has_value());
  queue.NobodyWaits(now + absl::Seconds(1));
}

TEST(QueueTime, LetsNobodyWaitIfItIsZero) {
  QueueTime queue(absl::ZeroDuration());
  const absl::Time now = absl::FromUnixSeconds(1700000000);
  EXPECT_FALSE(queue.Forbids(now, absl::ZeroDuration()).has_value());
  EXPECT_TRUE(queue.Forbids(now, absl::Milliseconds(1)).has_value());
}

TEST_F(QueueTimeTest, HoldsLessForTheTenantThatHasWaited) {
  for (int i = 0; i < 100; ++i) {
    now_ += absl::Milliseconds(10);
    queue_.Forbids(now_, absl::Seconds(1), /*tenant=*/1);
  }
  EXPECT_EQ(queue_.Forbids(now_, kLimit, /*tenant=*/1), kLimit / 16);
  EXPECT_EQ(queue_.Forbids(now_, kLimit, /*tenant=*/2), std::nullopt);
  // Nothing of it has waited since.
  now_ += absl::Seconds(10);
  queue_.Rested(2);
  EXPECT_EQ(queue_.Forbids(now_, kLimit, /*tenant=*/2), std::nullopt);
}

TEST_F(QueueTimeTest, TellsWhatOthersWouldGiveUp) {
  QueueLoad load;
  load.slots = 8;
  load.tenants = {{.tenant = 1, .slots = 7}, {.tenant = 2, .slots = 1}};
  queue_.SetLoad(load);
  EXPECT_EQ(queue_.GivenTo(1, 1), 0);
  EXPECT_EQ(queue_.GivenTo(2, 1), 3);
  EXPECT_EQ(queue_.GivenTo(3, 2), 4);
  EXPECT_EQ(queue_.GivenTo(3, 0.1), 0);
}

}  // namespace
}  // namespace engram
