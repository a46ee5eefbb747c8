#include "server/tenants.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

TenantLimits Streams(int64_t streams) {
  TenantLimits limits;
  limits.streams = streams;
  return limits;
}

TEST(Tenants, TheOneWithoutANameIsTheFirst) {
  const Tenants tenants;
  EXPECT_EQ(tenants.nameless()->number(), 0);
  EXPECT_EQ(tenants.nameless()->name(), "");
  EXPECT_EQ(tenants.Find(""), tenants.nameless());
  EXPECT_EQ(tenants.Find("acme"), nullptr);
}

TEST(Tenants, ATenantKeepsItsNumberWhateverTheFileSays) {
  Tenants tenants;
  tenants.Update({{"a", Streams(1)}, {"b", {}}});
  const TenantHandle a = tenants.Find("a");
  EXPECT_EQ(a->number(), 1);
  EXPECT_EQ(a->limits().streams, 1);
  tenants.Update({{"aa", {}}, {"b", Streams(2)}});
  EXPECT_EQ(tenants.Find("a"), a) << "something of it may still be there";
  EXPECT_EQ(tenants.Find("aa")->number(), 3);
  EXPECT_EQ(tenants.Find("b")->number(), 2);
  EXPECT_EQ(tenants.Find("b")->limits().streams, 2);
  ASSERT_EQ(tenants.all().size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(tenants.all()[i]->number(), i);
}

}  // namespace
}  // namespace engram
