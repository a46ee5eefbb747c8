#include "server/make_key.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/status.h"
#include "server/keys.h"
#include "tests/support/key_file.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Refusal(const std::vector<std::string>& arguments) {
  const auto made = MakeKey(arguments);
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(made.status().message());
}

TEST(MakeKey, TheEntryIsTheKeys) {
  const auto made =
      MakeKey({"--make-key", "robot", "--tenant=acme", "--roles",
               "generate,sessions", "--expires", "2027-01-01T00:00:00Z"});
  ASSERT_TRUE(made.ok()) << made.status();
  const auto keys = KeySet::Parse(KeysText({made->entry}), "keys");
  ASSERT_TRUE(keys.ok()) << keys.status();
  const Key* const key = keys->FindSent(made->key);
  ASSERT_NE(key, nullptr);
  EXPECT_EQ(key->name, "robot");
  EXPECT_EQ(key->tenant, "acme");
  EXPECT_EQ(key->roles, (std::set<Role>{Role::kGenerate, Role::kSessions}));
  EXPECT_LT(key->expires, absl::InfiniteFuture());
  EXPECT_THAT(made->entry, Not(HasSubstr(made->key)));
  EXPECT_THAT(made->entry, Not(HasSubstr("\n")));
}

TEST(MakeKey, NoTwoKeysAreAlike) {
  const std::vector<std::string> arguments = {"--make-key=a", "--tenant=*"};
  const auto first = MakeKey(arguments);
  const auto second = MakeKey(arguments);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE(first->key, second->key);
  // A prefix, and 256 bits in base64.
  EXPECT_EQ(first->key.size(), 7u + 43u);
}

TEST(MakeKey, ItIsAskedForByItsFlag) {
  EXPECT_TRUE(AsksForKey({"--tenant", "t", "--make-key", "a"}));
  EXPECT_TRUE(AsksForKey({"--make-key=a"}));
  EXPECT_FALSE(AsksForKey({"--make-keys", "--keys"}));
}

TEST(MakeKey, WhatIsWrongIsSaid) {
  EXPECT_THAT(Refusal({"--make-key", "a"}), HasSubstr("--tenant is missing"));
  EXPECT_THAT(Refusal({"--tenant", "t", "--make-key"}),
              HasSubstr("--make-key needs a value; a key is made by"));
  EXPECT_THAT(Refusal({"--make-key", "a", "--tenant", "t", "--role", "x"}),
              HasSubstr("unknown argument \"--role\""));
  EXPECT_THAT(Refusal({"--make-key", "a", "--make-key", "b"}),
              HasSubstr("--make-key is there twice"));
  EXPECT_THAT(Refusal({"--make-key", "a", "--tenant", "t", "--roles", "root"}),
              HasSubstr("roles has \"root\", which is none of generate"));
  EXPECT_THAT(Refusal({"--make-key", "a b", "--tenant", "t"}),
              HasSubstr("name \"a b\" has a character outside"));
}

}  // namespace
}  // namespace engram
