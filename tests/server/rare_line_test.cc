#include "server/rare_line.h"

#include <gtest/gtest.h>

#include "tests/support/fake_clock.h"

namespace engram {
namespace {

TEST(RareLine, OneInAWhileIsLoggedAndTheOthersAreCounted) {
  FakeClock clock;
  RareLine line(&clock);
  EXPECT_EQ(line.Note(), 0);
  for (int i = 0; i < 7; ++i) EXPECT_EQ(line.Note(), std::nullopt);
  clock.Advance(RareLine::kInterval - absl::Seconds(1));
  EXPECT_EQ(line.Note(), std::nullopt);
  clock.Advance(absl::Seconds(1));
  EXPECT_EQ(line.Note(), 8);
  EXPECT_EQ(line.Note(), std::nullopt);
  clock.Advance(RareLine::kInterval);
  EXPECT_EQ(line.Note(), 1);
}

}  // namespace
}  // namespace engram
