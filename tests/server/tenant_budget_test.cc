#include "server/tenant_budget.h"

#include <memory>
#include <optional>
#include <vector>

#include "gtest/gtest.h"

namespace engram {
namespace {

class TenantBudgetTest : public ::testing::Test {
 protected:
  // Whether there is room; if so, it is kept.
  bool Take(const Tenant* tenant, size_t bytes) {
    std::optional<TenantBudget::Share> share =
        budget_.Take(tenant, bytes, &shortage_);
    if (!share.has_value()) return false;
    shares_.push_back(*std::move(share));
    return true;
  }

  Tenant one_{"one", 1};
  Tenant two_{"two", 2};
  TenantBudget budget_{120};
  TenantBudget::Shortage shortage_;
  std::vector<TenantBudget::Share> shares_;
};

TEST_F(TenantBudgetTest, IsAllForWhoHasNoName) {
  const Tenant nameless("", 0);
  EXPECT_TRUE(Take(nullptr, 60));
  EXPECT_TRUE(Take(&nameless, 60));
  EXPECT_FALSE(Take(&nameless, 1));
  EXPECT_FALSE(shortage_.of_tenant);
  EXPECT_EQ(shortage_.taken, 120);
  EXPECT_EQ(shortage_.limit, 120);
}

TEST_F(TenantBudgetTest, KeepsAPartForTheNextTenant) {
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(Take(&one_, 10));
  EXPECT_FALSE(Take(&one_, 1));
  EXPECT_TRUE(shortage_.of_tenant);
  EXPECT_EQ(shortage_.taken, 60);
  EXPECT_EQ(shortage_.limit, 60);
  // Among two a third for each.
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Take(&two_, 10));
  EXPECT_FALSE(Take(&two_, 1));
  EXPECT_EQ(shortage_.limit, 40);
  shares_.clear();
  EXPECT_TRUE(Take(&two_, 30));
  EXPECT_TRUE(Take(&two_, 30));
}

TEST_F(TenantBudgetTest, IsSharedByWeight) {
  one_.SetLimits({.weight = 3});
  EXPECT_TRUE(Take(&one_, 50));
  EXPECT_TRUE(Take(&one_, 10));
  EXPECT_FALSE(Take(&one_, 1));
  EXPECT_EQ(shortage_.limit, 60);
  // A light one that comes takes little of that.
  two_.SetLimits({.weight = 1.5});
  EXPECT_TRUE(Take(&two_, 10));
  EXPECT_FALSE(Take(&one_, 1));
  EXPECT_EQ(shortage_.limit, 48);
}

TEST_F(TenantBudgetTest, IsHalfForALoneTenantHoweverLight) {
  one_.SetLimits({.weight = 0.01});
  EXPECT_TRUE(Take(&one_, 50));
  EXPECT_TRUE(Take(&one_, 10));
  EXPECT_FALSE(Take(&one_, 1));
}

TEST_F(TenantBudgetTest, HasRoomForOneThatIsLargerThanAPart) {
  EXPECT_TRUE(Take(&one_, 100));
  EXPECT_FALSE(Take(&one_, 1));
  EXPECT_FALSE(Take(&two_, 21));
  EXPECT_FALSE(shortage_.of_tenant);
  EXPECT_TRUE(Take(&two_, 20));
  shares_.clear();
  // What was refused took nothing.
  EXPECT_FALSE(Take(&one_, 121));
  EXPECT_TRUE(Take(&one_, 120));
}

}  // namespace
}  // namespace engram
