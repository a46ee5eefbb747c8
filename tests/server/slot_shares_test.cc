#include "server/slot_shares.h"

#include <map>

#include "gtest/gtest.h"

namespace engram {
namespace {

WaitingRequest Waiting(int tenant, int second = 0, double weight = 1,
                       int priority = 0) {
  return {.priority = priority,
          .arrival = absl::FromUnixSeconds(second),
          .tenant = tenant,
          .weight = weight};
}

TEST(SlotShares, LetWhoHasFewestSlotsForItsWeightGoFirst) {
  SlotShares shares;
  for (int i = 0; i < 3; ++i) shares.Took(1, 1);
  shares.Took(2, 0.25);
  EXPECT_EQ(shares.Share(1, 1), 3);
  EXPECT_EQ(shares.Share(2, 0.25), 4);
  EXPECT_TRUE(shares.GoesBefore(Waiting(1, 9), Waiting(2, 1, 0.25, 9)));
  EXPECT_TRUE(shares.GoesBefore(Waiting(3, 10), Waiting(1, 9)));
  shares.Gave(2);
  EXPECT_TRUE(shares.GoesBefore(Waiting(2, 9, 0.25), Waiting(1, 1)));
}

TEST(SlotShares, GoByPriorityAndArrivalWithinATenant) {
  const SlotShares shares;
  EXPECT_TRUE(shares.GoesBefore(Waiting(1, 9, 1, /*priority=*/1), Waiting(1)));
  EXPECT_TRUE(shares.GoesBefore(Waiting(1, 1), Waiting(1, 2)));
  EXPECT_FALSE(shares.GoesBefore(Waiting(1, 2), Waiting(1, 1)));
}

TEST(SlotShares, LetThoseWhoNeverHadASlotGoByArrival) {
  const SlotShares shares;
  EXPECT_TRUE(shares.GoesBefore(Waiting(1, 1), Waiting(2, 2)));
  EXPECT_FALSE(shares.GoesBefore(Waiting(2, 2), Waiting(1, 1)));
}

// One slot, which two tenants want all the time.
TEST(SlotShares, TakeTurnsByWeightWhereThereAreFewSlots) {
  SlotShares shares;
  std::map<int, int> turns;
  for (int i = 0; i < 80; ++i) {
    const WaitingRequest heavy = Waiting(1, i, /*weight=*/3);
    const WaitingRequest light = Waiting(2, i);
    const WaitingRequest next = shares.GoesBefore(heavy, light) ? heavy : light;
    shares.Took(next.tenant, next.weight);
    ++turns[next.tenant];
    shares.Gave(next.tenant);
  }
  EXPECT_NEAR(turns[1], 60, 2);
}

TEST(SlotShares, SaveNoTurnsForWhoWantsNone) {
  SlotShares shares;
  for (int i = 0; i < 100; ++i) {
    shares.Took(1, 1);
    shares.Gave(1);
  }
  int turns = 0;
  for (int i = 0; i < 10; ++i) {
    const int next = shares.GoesBefore(Waiting(2, i), Waiting(1, i)) ? 2 : 1;
    shares.Took(next, 1);
    turns += next == 2;
    shares.Gave(next);
  }
  EXPECT_NEAR(turns, 5, 1);
}

TEST(SlotShares, HaveWhoHoldsMoreThanItsShareMakeWay) {
  SlotShares shares;
  for (int i = 0; i < 3; ++i) shares.Took(1, 1);
  shares.Took(2, 1);
  EXPECT_TRUE(shares.MakesWay(1, 1, Waiting(2)));
  EXPECT_FALSE(shares.MakesWay(2, 1, Waiting(1)));
  shares.Gave(1);
  shares.Took(2, 1);
  // Each has its share.
  EXPECT_FALSE(shares.MakesWay(1, 1, Waiting(2)));
  EXPECT_FALSE(shares.MakesWay(2, 1, Waiting(1)));
  // Of one with four times the weight eight would be.
  EXPECT_TRUE(shares.MakesWay(1, 1, Waiting(2, 0, /*weight=*/4)));
}

TEST(SlotShares, HaveTheOddSlotGoToAndFro) {
  SlotShares shares;
  shares.Took(1, 1);
  EXPECT_TRUE(shares.MakesWay(1, 1, Waiting(2)));
  shares.Gave(1);
  shares.Took(2, 1);
  EXPECT_TRUE(shares.MakesWay(2, 1, Waiting(1)));
}

TEST(SlotShares, TellOfTenantsByName) {
  SlotShares shares;
  EXPECT_TRUE(shares.Named().empty());
  shares.Took(0, 1);
  shares.Took(1, 2);
  shares.Took(3, 1);
  shares.Took(1, 2);
  shares.Gave(3);
  const auto named = shares.Named();
  ASSERT_EQ(named.size(), 1);
  EXPECT_EQ(named[0].tenant, 1);
  EXPECT_EQ(named[0].weight, 2);
  EXPECT_EQ(named[0].slots, 2);
}

}  // namespace
}  // namespace engram
