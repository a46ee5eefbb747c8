#include "server/by_tenant.h"

#include "gtest/gtest.h"

namespace engram {
namespace {

TEST(ByTenant, MakesWhatIsAskedForFirst) {
  ByTenant<int> all;
  EXPECT_EQ(all.Get(3), 0);
  EXPECT_EQ(all.size(), 0);
  all.At(3) = 7;
  EXPECT_EQ(all.Get(3), 7);
  EXPECT_EQ(all.Get(2), 0);
  EXPECT_EQ(all.Get(4), 0);
  EXPECT_EQ(all.size(), 4);
}

TEST(ByTenant, LeavesEachWhereItIs) {
  ByTenant<int> all;
  int* const first = &all.At(0);
  all.At(1000) = 1;
  EXPECT_EQ(&all.At(0), first);
  EXPECT_EQ(&all.Get(0), first);
}

}  // namespace
}  // namespace engram
