#include "server/reply_budget.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ReplyBudget, IsGivenBackWhenAReservationEnds) {
  ReplyBudget budget(100);
  {
    ReplyReservation reply(&budget, "a");
    EXPECT_TRUE(reply.Resize(40).ok());
    EXPECT_EQ(budget.used(), 40);
    EXPECT_TRUE(reply.Resize(10).ok());
    EXPECT_EQ(budget.used(), 10);
  }
  EXPECT_EQ(budget.used(), 0);
}

TEST(ReplyBudget, RefusesWhatIsOverItAndNamesTheFlag) {
  ReplyBudget budget(100);
  ReplyReservation one(&budget, "a"), two(&budget, "b"), three(&budget, "c");
  EXPECT_TRUE(one.Resize(50).ok());
  EXPECT_TRUE(two.Resize(45).ok());
  const absl::Status refused = three.Resize(6);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr("6 bytes"), HasSubstr("take 95"),
                    HasSubstr("limit 100 (--reply-memory)")));
  EXPECT_EQ(budget.used(), 95);
  EXPECT_TRUE(three.Resize(5).ok());
}

TEST(ReplyBudget, GivesOneClientHalf) {
  ReplyBudget budget(100);
  ReplyReservation one(&budget, "a"), two(&budget, "a"), other(&budget, "b");
  EXPECT_TRUE(one.Resize(30).ok());
  const absl::Status refused = two.Resize(21);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr("21 bytes"), HasSubstr("take 30"),
                    HasSubstr("limit 50")));
  EXPECT_TRUE(other.Resize(50).ok());
  EXPECT_TRUE(two.Resize(20).ok());
}

TEST(ReplyBudget, AReservationThatMayNotGrowStaysAsItWas) {
  ReplyBudget budget(100);
  ReplyReservation reply(&budget, "a");
  EXPECT_TRUE(reply.Resize(30).ok());
  EXPECT_FALSE(reply.Resize(51).ok());
  EXPECT_EQ(reply.bytes(), 30);
  EXPECT_EQ(budget.used(), 30);
}

}  // namespace
}  // namespace engram
