#include "server/departed_sessions.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

TEST(DepartedSessions, TellsTheReasonOfTheLastDeparture) {
  DepartedSessions departed(10);
  EXPECT_EQ(departed.ReasonOf("a"), nullptr);
  departed.Add("a", "evicted");
  departed.Add("a", "expired");
  ASSERT_NE(departed.ReasonOf("a"), nullptr);
  EXPECT_EQ(*departed.ReasonOf("a"), "expired");
}

TEST(DepartedSessions, ForgetsTheOldestBeyondItsLimit) {
  DepartedSessions departed(2);
  departed.Add("a", "r");
  departed.Add("b", "r");
  departed.Add("a", "r");  // now the newest
  departed.Add("c", "r");
  EXPECT_EQ(departed.ReasonOf("b"), nullptr);
  EXPECT_NE(departed.ReasonOf("a"), nullptr);
  EXPECT_NE(departed.ReasonOf("c"), nullptr);
}

TEST(DepartedSessions, CountsTheBytesOfThoseThatAreThere) {
  DepartedSessions departed(100);
  EXPECT_EQ(departed.bytes(), 0);
  for (int i = 0; i < 1000; ++i) {
    departed.Add(absl::StrCat(std::string(120, 'x'), i), "evicted");
  }
  EXPECT_GT(departed.bytes(), 100 * 120);
  EXPECT_LT(departed.bytes(), 100 * 500);
  for (int i = 900; i < 1000; ++i) {
    EXPECT_TRUE(departed.Erase(absl::StrCat(std::string(120, 'x'), i)));
  }
  EXPECT_FALSE(departed.Erase("none"));
  EXPECT_EQ(departed.bytes(), 0);
}

}  // namespace
}  // namespace engram
