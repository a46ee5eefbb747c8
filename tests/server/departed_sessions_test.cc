#include "server/departed_sessions.h"

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/support/named.h"

namespace engram {
namespace {

TEST(DepartedSessions, TellsTheReasonOfTheLastDeparture) {
  DepartedSessions departed(10);
  EXPECT_EQ(departed.ReasonOf(Named("a")), nullptr);
  departed.Add(Named("a"), "evicted");
  departed.Add(Named("a"), "expired");
  ASSERT_NE(departed.ReasonOf(Named("a")), nullptr);
  EXPECT_EQ(*departed.ReasonOf(Named("a")), "expired");
}

TEST(DepartedSessions, ForgetsTheOldestBeyondItsLimit) {
  DepartedSessions departed(2);
  departed.Add(Named("a"), "r");
  departed.Add(Named("b"), "r");
  departed.Add(Named("a"), "r");  // now the newest
  departed.Add(Named("c"), "r");
  EXPECT_EQ(departed.ReasonOf(Named("b")), nullptr);
  EXPECT_NE(departed.ReasonOf(Named("a")), nullptr);
  EXPECT_NE(departed.ReasonOf(Named("c")), nullptr);
}

TEST(DepartedSessions, ForgetsThoseOfTheTenantWithTheMost) {
  const auto other = std::make_shared<Tenant>("t", 1);
  DepartedSessions departed(3);
  departed.Add({other, "a"}, "of the other");
  for (const char* id : {"a", "b", "c"}) departed.Add(Named(id), "r");
  EXPECT_EQ(departed.ReasonOf(Named("a")), nullptr);
  ASSERT_NE(departed.ReasonOf({other, "a"}), nullptr);
  EXPECT_EQ(*departed.ReasonOf({other, "a"}), "of the other");
  EXPECT_FALSE(departed.Erase({other, "b"}));
  EXPECT_TRUE(departed.Erase(Named("b")));
}

TEST(DepartedSessions, CountsTheBytesOfThoseThatAreThere) {
  DepartedSessions departed(100);
  EXPECT_EQ(departed.bytes(), 0);
  for (int i = 0; i < 1000; ++i) {
    departed.Add(Named(absl::StrCat(std::string(120, 'x'), i)), "evicted");
  }
  EXPECT_GT(departed.bytes(), 100 * 120);
  EXPECT_LT(departed.bytes(), 100 * 500);
  for (int i = 900; i < 1000; ++i) {
    EXPECT_TRUE(departed.Erase(Named(absl::StrCat(std::string(120, 'x'), i))));
  }
  EXPECT_FALSE(departed.Erase(Named("none")));
  EXPECT_EQ(departed.bytes(), 0);
}

}  // namespace
}  // namespace engram
