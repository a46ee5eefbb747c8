#include "server/keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "tests/support/key_file.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

absl::StatusOr<KeySet> Parse(const std::vector<std::string>& entries) {
  return KeySet::Parse(KeysText(entries), "keys.json");
}

KeySet ParseGood(const std::vector<std::string>& entries) {
  auto keys = Parse(entries);
  ENGRAM_CHECK_OK(keys.status());
  return *std::move(keys);
}

std::string Refusal(const std::string& entry) {
  const auto keys = Parse({KeyEntry("first", "acme"), entry});
  EXPECT_EQ(keys.status().code(), absl::StatusCode::kInvalidArgument) << entry;
  EXPECT_THAT(std::string(keys.status().message()),
              StartsWith("keys.json: keys[1]"));
  return std::string(keys.status().message());
}

TEST(Keys, ADigestIsSha256) {
  EXPECT_EQ(Sha256Text("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Keys, AKeyIsFoundByWhatIsSent) {
  const KeySet keys =
      ParseGood({KeyEntry("a", "acme"), KeyEntry("b", "other")});
  ASSERT_NE(keys.FindSent("key of b"), nullptr);
  EXPECT_EQ(keys.FindSent("key of b")->name, "b");
  EXPECT_EQ(keys.FindSent("key of b")->tenant, "other");
  EXPECT_EQ(keys.FindSent("key of c"), nullptr);
  EXPECT_EQ(keys.FindSent(""), nullptr);
  // What the file has is no key.
  EXPECT_EQ(keys.FindSent(Sha256Text("key of b")), nullptr);
}

TEST(Keys, ANameInACertificateStandsForAKey) {
  const KeySet keys = ParseGood({
      R"({"name": "a", "tenant": "t", "certificate": "robot.example",
          "roles": ["generate"]})",
      KeyEntry("b", "t"),
  });
  ASSERT_NE(keys.FindCertificate("robot.example"), nullptr);
  EXPECT_EQ(keys.FindCertificate("robot.example")->name, "a");
  EXPECT_EQ(keys.FindCertificate("robot"), nullptr);
  EXPECT_EQ(keys.FindCertificate(""), nullptr);
}

TEST(Keys, AdminHasTheRolesOfItsTenant) {
  const KeySet keys = ParseGood({
      KeyEntry("admin", "t", R"("roles": ["admin"])"),
      KeyEntry("operator", "*", R"("roles": ["admin"])"),
      KeyEntry("reader", "t", R"("roles": ["metrics", "generate"])"),
  });
  const Key& admin = *keys.FindSent("key of admin");
  for (const Role role : {Role::kGenerate, Role::kSessions, Role::kInspect}) {
    EXPECT_TRUE(admin.Has(role)) << RoleName(role);
  }
  // It tells of all tenants.
  EXPECT_FALSE(admin.Has(Role::kMetrics));
  EXPECT_TRUE(keys.FindSent("key of operator")->Has(Role::kMetrics));
  const Key& reader = *keys.FindSent("key of reader");
  EXPECT_TRUE(reader.Has(Role::kMetrics));
  EXPECT_TRUE(reader.Has(Role::kGenerate));
  EXPECT_FALSE(reader.Has(Role::kSessions));
}

TEST(Keys, LimitsAreTheTenants) {
  const KeySet keys = ParseGood({
      KeyEntry("a", "t"),
      KeyEntry("b", "t", R"("roles": [], "limits": {"streams": 8, "sessions": 9,
          "session_bytes": 10, "tokens_per_second": 2.5,
          "requests_per_second": 3, "weight": 4})"),
      KeyEntry("c", "t", R"("roles": [], "limits": {"weight": 4, "sessions": 9,
          "session_bytes": 10, "tokens_per_second": 2.5,
          "requests_per_second": 3, "streams": 8})"),
      KeyEntry("d", "free"),
      KeyEntry("e", "*"),
  });
  TenantLimits limits;
  limits.streams = 8;
  limits.sessions = 9;
  limits.session_bytes = 10;
  limits.tokens_per_second = 2.5;
  limits.requests_per_second = 3;
  limits.weight = 4;
  const std::map<std::string, TenantLimits> tenants = {{"t", limits},
                                                       {"free", {}}};
  EXPECT_EQ(keys.tenants(), tenants);
}

TEST(Keys, LimitsOfOneTenantThatDifferAreRefused) {
  const auto keys = Parse({
      KeyEntry("a", "t", R"("roles": [], "limits": {"streams": 8})"),
      KeyEntry("b", "t"),
      KeyEntry("c", "t", R"("roles": [], "limits": {"streams": 9})"),
  });
  EXPECT_EQ(keys.status().message(),
            "keys.json: keys[2] \"c\": its limits differ from those of \"a\", "
            "and all keys of a tenant share them");
}

TEST(Keys, ExpiryIsATime) {
  const KeySet keys = ParseGood({
      KeyEntry("a", "t",
               R"("roles": [], "expires": "2027-01-31T12:00:00+01:00")"),
      KeyEntry("b", "t"),
  });
  EXPECT_EQ(
      keys.FindSent("key of a")->expires,
      absl::FromCivil(absl::CivilHour(2027, 1, 31, 11), absl::UTCTimeZone()));
  EXPECT_EQ(keys.FindSent("key of b")->expires, absl::InfiniteFuture());
}

TEST(Keys, WhatIsWrongIsNamed) {
  const std::pair<std::string, const char*> wrong[] = {
      {"7", "keys[1]: not an object"},
      {R"({"tenant": "t"})", "name has 0 characters"},
      {R"({"name": "x"})", "keys[1] \"x\": tenant has 0 characters"},
      {R"({"name": "x", "tenant": "a b"})", "tenant \"a b\" has a character"},
      {R"({"name": "x", "tenant": "t", "roles": []})",
       "neither sha256 nor certificate"},
      {KeyEntry("x", "t", R"("role": [])"),
       "there is no field \"role\", but name, tenant, sha256"},
      {KeyEntry("x", "t", R"("roles": "generate")"), "roles is not a list"},
      {KeyEntry("x", "t", R"("roles": ["root"])"),
       "roles has \"root\", which is none of generate, sessions, inspect, "
       "metrics, admin"},
      {KeyEntry("x", "t", R"("roles": ["admin", "admin"])"), "is there twice"},
      {KeyEntry("x", "t", R"("roles": [], "expires": "soon")"),
       "expires is \"soon\", which is no time such as 2027-01-31T00:00:00Z"},
      {KeyEntry("x", "t", R"("roles": [], "limits": [])"),
       "limits is not an object"},
      {KeyEntry("x", "t", R"("roles": [], "limits": {"stream": 1})"),
       "there is no field \"stream\", but streams, sessions"},
      {KeyEntry("x", "t", R"("roles": [], "limits": {"streams": 0})"),
       "limits: streams is not a whole number from 1 on"},
      {KeyEntry("x", "t", R"("roles": [], "limits": {"sessions": 1.5})"),
       "limits: sessions is not a whole number"},
      {KeyEntry("x", "t", R"("roles": [], "limits": {"session_bytes": 1e300})"),
       "limits: session_bytes is not a whole number"},
      {KeyEntry("x", "t",
                R"("roles": [], "limits": {"streams": 18446744073709551615})"),
       "limits: streams is not a whole number"},
      {KeyEntry("x", "t", R"("roles": [], "limits": {"tokens_per_second": 0})"),
       "limits: tokens_per_second is not a number above 0"},
      {KeyEntry("x", "t",
                R"("roles": [], "limits": {"requests_per_second": 1e20})"),
       "limits: requests_per_second is not a number above 0 up to 1e+12"},
      {KeyEntry("x", "t", R"("roles": [], "limits": {"weight": 0})"),
       "limits: weight is not a number from 0.001 to 1000"},
      {KeyEntry("x", "*", R"("roles": [], "limits": {})"),
       "limits are a tenant's"},
      {KeyEntry("first", "t"), "another key has the same name"},
      {absl::StrCat(R"({"name": "x", "tenant": "t", "roles": [], "sha256": ")",
                    Sha256Text("key of first"), "\"}"),
       "its sha256 is that of \"first\""},
  };
  for (const auto& [entry, words] : wrong) {
    EXPECT_THAT(Refusal(entry), HasSubstr(words));
  }
  const std::string certificate =
      R"("tenant": "t", "roles": [], "certificate": "c"})";
  EXPECT_THAT(Parse({R"({"name": "a", )" + certificate,
                     R"({"name": "b", )" + certificate})
                  .status()
                  .message(),
              HasSubstr("its certificate is that of \"a\""));
}

TEST(Keys, AFileOfSomethingElseIsRefused) {
  for (const char* text : {"", "[]", "{}", "{\"keys\": {}}",
                           "{\"keys\": [], \"more\": 1}", "{\"keys\": ["}) {
    const auto keys = KeySet::Parse(text, "keys.json");
    EXPECT_EQ(keys.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(keys.status().message()), StartsWith("keys.json: "))
        << text;
  }
}

// Somebody may put the key itself where its SHA-256 belongs.
TEST(Keys, WhatMightBeAKeyIsNotShown) {
  const std::string key = "the-very-secret";
  EXPECT_THAT(
      Refusal(absl::StrCat(R"({"name": "x", "tenant": "t", "roles": [], )",
                           R"("sha256": ")", key, "\"}")),
      AllOf(HasSubstr("sha256 has 15 characters"), HasSubstr("--make-key"),
            Not(HasSubstr(key))));
  EXPECT_THAT(
      Refusal(absl::StrCat(R"({"name": "x", "tenant": "t", "roles": [], )",
                           R"("sha256": [")", key, "\"]}")),
      AllOf(HasSubstr("sha256 is not a text"), Not(HasSubstr(key))));
}

}  // namespace
}  // namespace engram
