#include "server/tenant_shares.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

TenantDemand Wants(int tenant, int64_t tokens, double weight = 1) {
  return {.tenant = tenant, .weight = weight, .tokens = tokens};
}

TEST(ShareByWeight, GivesEachItsPart) {
  EXPECT_THAT(ShareByWeight({Wants(1, 100), Wants(2, 100)}, 10),
              ElementsAre(5, 5));
  EXPECT_THAT(ShareByWeight({Wants(1, 100, 3), Wants(2, 100)}, 10),
              ElementsAre(7.5, 2.5));
}

TEST(ShareByWeight, SharesWhatSomebodyLeavesByWeightToo) {
  EXPECT_THAT(ShareByWeight({Wants(1, 100), Wants(2, 1), Wants(3, 100, 2)}, 13),
              ElementsAre(4, 1, 8));
}

TEST(ShareByWeight, GivesNobodyMoreThanItWants) {
  EXPECT_THAT(ShareByWeight({Wants(1, 2), Wants(2, 3, 0.1)}, 100),
              ElementsAre(2, 3));
}

TEST(TenantShares, OweWhatWasNotFed) {
  TenantShares shares;
  const std::vector<TenantDemand> both = {Wants(1, 64), Wants(2, 64)};
  EXPECT_THAT(shares.Share(both, 32, 64), ElementsAre(16, 16));
  // The second could not use its part.
  shares.Fed(both, {32, 0});
  EXPECT_THAT(shares.Share(both, 32, 64), ElementsAre(0, 32));
  shares.Fed(both, {32, 0});
  EXPECT_THAT(shares.Share(both, 32, 64), ElementsAre(-16, 48));
  shares.Fed(both, {0, 32});
  EXPECT_THAT(shares.Share(both, 32, 64), ElementsAre(0, 32));
}

TEST(TenantShares, OweNoMoreThanTheyMay) {
  TenantShares shares;
  const std::vector<TenantDemand> both = {Wants(1, 64), Wants(2, 64)};
  for (int i = 0; i < 100; ++i) {
    shares.Share(both, 32, 64);
    shares.Fed(both, {32, 0});
  }
  EXPECT_THAT(shares.Share(both, 32, 64), ElementsAre(-48, 80));
}

TEST(TenantShares, OweNothingToWhoHadAllThatItWanted) {
  TenantShares shares;
  const std::vector<TenantDemand> both = {Wants(1, 64), Wants(2, 1)};
  for (int i = 0; i < 100; ++i) {
    shares.Share(both, 32, 64);
    shares.Fed(both, {31, 1});
  }
  EXPECT_THAT(shares.Share({Wants(1, 64), Wants(2, 64)}, 32, 64),
              ElementsAre(DoubleNear(16, 1e-9), DoubleNear(16, 1e-9)));
}

TEST(TenantShares, SaveNothingForWhoIsIdle) {
  TenantShares shares;
  const std::vector<TenantDemand> three = {Wants(1, 64), Wants(2, 64),
                                           Wants(3, 64)};
  shares.Share(three, 30, 64);
  shares.Fed(three, {30, 0, 0});
  shares.Share({Wants(1, 64), Wants(3, 64)}, 30, 64);
  shares.Fed({Wants(1, 64), Wants(3, 64)}, {15, 15});
  EXPECT_THAT(shares.Share(three, 30, 64), ElementsAre(-10, 10, 20));
  shares.Forget();
  EXPECT_THAT(shares.Share(three, 30, 64), ElementsAre(10, 10, 10));
}

}  // namespace
}  // namespace engram
