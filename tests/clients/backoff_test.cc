#include "clients/cpp/backoff.h"

#include <gtest/gtest.h>

#include <set>

namespace engram::client {
namespace {

TEST(Backoff, DoublesUpToFiveSeconds) {
  Backoff backoff;
  for (const int64_t longest_ms :
       {100, 200, 400, 800, 1600, 3200, 5000, 5000}) {
    const absl::Duration wait = backoff.Next();
    EXPECT_GE(wait, absl::Milliseconds(longest_ms) / 2);
    EXPECT_LE(wait, absl::Milliseconds(longest_ms));
  }
}

TEST(Backoff, BeginsAgainWhenReset) {
  Backoff backoff;
  for (int i = 0; i < 8; ++i) backoff.Next();
  backoff.Reset();
  EXPECT_LE(backoff.Next(), absl::Milliseconds(100));
  EXPECT_GE(backoff.Next(), absl::Milliseconds(100));
}

TEST(Backoff, WaitsAtLeastAsLongAsTheServerAsksAndUpToHalfOnTop) {
  Backoff backoff;
  std::set<absl::Duration> waits;
  for (int i = 0; i < 50; ++i) {
    const absl::Duration wait = backoff.Next(absl::Seconds(20));
    EXPECT_GE(wait, absl::Seconds(20));
    EXPECT_LE(wait, absl::Seconds(30));
    waits.insert(wait);
  }
  // So that clients that were refused together do not come back together.
  EXPECT_GT(*waits.rbegin() - *waits.begin(), absl::Seconds(1));
}

TEST(Backoff, AShortWaitOfTheServersDoesNotShortenIts) {
  Backoff backoff;
  for (int i = 0; i < 6; ++i) backoff.Next();
  EXPECT_GE(backoff.Next(absl::Milliseconds(1)), absl::Milliseconds(2500));
}

}  // namespace
}  // namespace engram::client
