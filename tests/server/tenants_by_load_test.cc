#include "server/tenants_by_load.h"

#include <optional>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

TEST(TenantsByLoad, BeginWithWhoTakesTheMost) {
  TenantsByLoad tenants;
  tenants.Set(3, 1);
  tenants.Set(0, 0);
  tenants.Set(7, 2);
  EXPECT_THAT(tenants.order(), ElementsAre(Pair(2, 7), Pair(1, 3), Pair(0, 0)));
  tenants.Set(3, 5);
  tenants.Set(3, 5);
  EXPECT_THAT(tenants.order(), ElementsAre(Pair(5, 3), Pair(2, 7), Pair(0, 0)));
}

TEST(TenantsByLoad, LeaveOutWhoHasNothingToGive) {
  TenantsByLoad tenants;
  tenants.Set(1, 4);
  tenants.Set(2, 4);
  EXPECT_EQ(tenants.Find(1), 4);
  tenants.Erase(1);
  tenants.Erase(1);
  tenants.Erase(9);
  EXPECT_THAT(tenants.order(), ElementsAre(Pair(4, 2)));
  for (const int none : {-1, 1, 9, 10}) {
    EXPECT_EQ(tenants.Find(none), std::nullopt) << none;
  }
}

}  // namespace
}  // namespace engram
