#include "server/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "tests/support/fake_clock.h"
#include "tests/support/key_file.h"
#include "tests/support/temporary_folder.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

class AccessTest : public ::testing::Test {
 protected:
  AccessTest() {
    clock_.Set(
        absl::FromCivil(absl::CivilDay(2027, 1, 1), absl::UTCTimeZone()));
    folder_.Write(
        "keys",
        KeysText({KeyEntry("writer", "acme", R"("roles": ["generate"],
                           "expires": "2027-01-02T00:00:00Z",
                           "certificate": "writer.acme")"),
                  KeyEntry("bare", "acme"),
                  KeyEntry("admin", "acme", R"("roles": ["admin"])"),
                  KeyEntry("scraper", "acme", R"("roles": ["metrics"])"),
                  KeyEntry("other", "other", R"("roles": ["admin"])"),
                  KeyEntry("operator", "*", R"("roles": ["admin"])")}));
    auto ring = KeyRing::Load(folder_.File("keys"), /*asks_certificates=*/false,
                              &tenants_);
    ENGRAM_CHECK_OK(ring.status());
    ring_ = *std::move(ring);
    access_.emplace(ring_.get(), &tenants_, &clock_);
  }

  // "Bearer key of NAME".
  absl::StatusOr<Caller> Admit(const std::string& name,
                               const std::string& method,
                               const std::string& tenant = "") const {
    const std::string authorization = AuthorizationOf(name);
    ShownIdentity shown;
    shown.authorizations = {authorization};
    if (!tenant.empty()) shown.tenants = {tenant};
    return access_->Admit(shown, method);
  }

  absl::Status AdmitText(const std::string& authorization) const {
    ShownIdentity shown;
    shown.authorizations = {authorization};
    return access_->Admit(shown, "Generate").status();
  }

  TemporaryFolder folder_;
  FakeClock clock_;
  Tenants tenants_;
  std::unique_ptr<KeyRing> ring_;
  std::optional<Access> access_;
};

TEST_F(AccessTest, WithoutKeysEverybodyIsTheTenantWithoutAName) {
  const Access open(nullptr, &tenants_, &clock_);
  const auto caller = open.Admit({}, "Generate");
  ASSERT_TRUE(caller.ok());
  EXPECT_EQ(caller->key, "");
  EXPECT_EQ(caller->tenant, tenants_.nameless());
}

TEST_F(AccessTest, AKeyIsItsNameAndItsTenant) {
  const auto caller = Admit("writer", "Generate");
  ASSERT_TRUE(caller.ok()) << caller.status();
  EXPECT_EQ(caller->key, "writer");
  EXPECT_EQ(caller->tenant, tenants_.Find("acme"));
  EXPECT_TRUE(AdmitText("bearer   key of writer ").ok());
}

TEST_F(AccessTest, WithoutAKnownKeyNobodyIsLetIn) {
  const auto no_key = absl::UnauthenticatedError(
      "no key: send metadata authorization: Bearer KEY");
  EXPECT_EQ(access_->Admit({}, "Generate").status(), no_key);
  EXPECT_EQ(AdmitText(""), no_key);
  EXPECT_EQ(AdmitText("Bearer "), no_key);
  EXPECT_EQ(AdmitText("Basic key of writer"), no_key);
  EXPECT_EQ(AdmitText("Bearer key of nobody"),
            absl::UnauthenticatedError("unknown key"));
  ShownIdentity twice;
  twice.authorizations = {"Bearer key of writer", "Bearer key of bare"};
  EXPECT_EQ(access_->Admit(twice, "Generate").status(),
            absl::UnauthenticatedError(
                "metadata authorization is there more than once"));
}

TEST_F(AccessTest, AKeyExpires) {
  clock_.Advance(absl::Hours(24) - absl::Seconds(1));
  EXPECT_TRUE(Admit("writer", "Generate").ok());
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(Admit("writer", "Generate").status(),
            absl::UnauthenticatedError(
                "key \"writer\" expired at 2027-01-02T00:00:00Z"));
}

TEST_F(AccessTest, ACertificateStandsForAKey) {
  ShownIdentity shown;
  shown.certificate_names = [] {
    return std::vector<std::string>{"elsewhere", "writer.acme"};
  };
  const auto caller = access_->Admit(shown, "Generate");
  ASSERT_TRUE(caller.ok());
  EXPECT_EQ(caller->key, "writer");
  // But not for one that was sent and is wrong.
  shown.authorizations = {"Bearer key of nobody"};
  EXPECT_EQ(access_->Admit(shown, "Generate").status(),
            absl::UnauthenticatedError("unknown key"));
  shown.authorizations = {"Basic nothing"};
  EXPECT_FALSE(access_->Admit(shown, "Generate").ok());
  shown.authorizations = {};
  shown.certificate_names = [] { return std::vector<std::string>{"writer"}; };
  EXPECT_FALSE(access_->Admit(shown, "Generate").ok());
}

TEST_F(AccessTest, ARoleThatIsNotThereIsNamed) {
  EXPECT_TRUE(Admit("bare", "Models.List").ok());
  EXPECT_EQ(Admit("bare", "Generate").status(),
            absl::PermissionDeniedError(
                "Generate: key \"bare\" has no role \"generate\""));
  EXPECT_EQ(Admit("writer", "Sessions.Get").status(),
            absl::PermissionDeniedError(
                "Sessions.Get: key \"writer\" has no role \"sessions\""));
  EXPECT_TRUE(Admit("admin", "Sessions.Get").ok());
}

TEST_F(AccessTest, WhoseAKnownKeyIsThatIsRefusedIsTold) {
  const auto refused = [this](const std::string& name,
                              const std::string& method) {
    const std::string authorization = AuthorizationOf(name);
    ShownIdentity shown;
    shown.authorizations = {authorization};
    Caller caller;
    EXPECT_FALSE(access_->Admit(shown, method, &caller).ok());
    return caller;
  };
  Caller caller = refused("bare", "Generate");
  EXPECT_EQ(caller.key, "bare");
  EXPECT_EQ(caller.tenant, tenants_.Find("acme"));
  EXPECT_EQ(refused("operator", "Sessions.Steal").tenant, tenants_.nameless());
  tenants_.Find("other")->SetLimits({.requests_per_second = 1});
  EXPECT_TRUE(Admit("other", "Sessions.List").ok());
  EXPECT_EQ(refused("other", "Sessions.List").tenant, tenants_.Find("other"));
  clock_.Advance(absl::Hours(24));
  EXPECT_EQ(refused("writer", "Generate").key, "writer");
  caller = refused("nobody", "Generate");
  EXPECT_EQ(caller.key, "");
  EXPECT_EQ(caller.tenant, nullptr);
}

TEST_F(AccessTest, AMethodThatIsNotInTheTableIsNobodys) {
  EXPECT_EQ(Admit("operator", "Sessions.Steal").status(),
            absl::PermissionDeniedError(
                "Sessions.Steal: nobody may call it while keys are used"));
  const std::string path = absl::StrCat("/", std::string(8000, 'x'));
  EXPECT_LT(Admit("operator", path).status().message().size(), 200);
  // Who has no key is told as of any other.
  EXPECT_EQ(Admit("nobody", path).status(),
            absl::UnauthenticatedError("unknown key"));
  EXPECT_TRUE(absl::IsUnauthenticated(access_->Admit({}, path).status()));
}

TEST_F(AccessTest, WhatTellsOfAllTenantsIsForOperators) {
  const char* const path = "/grpc.channelz.v1.Channelz/GetServers";
  EXPECT_TRUE(Admit("operator", path).ok());
  EXPECT_EQ(Admit("admin", path).status(),
            absl::PermissionDeniedError(absl::StrCat(
                path, ": key \"admin\" is not one of tenant \"*\"")));
  EXPECT_TRUE(Admit("operator", "/metrics").ok());
  EXPECT_FALSE(Admit("admin", "/metrics").ok());
}

TEST_F(AccessTest, HealthNeedsNoKeyAndReflectionOneIfItIsSaid) {
  EXPECT_TRUE(access_->Admit({}, "/grpc.health.v1.Health/Check").ok());
  const char* const reflection =
      "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  EXPECT_TRUE(access_->Admit({}, reflection).ok());
  access_.emplace(ring_.get(), &tenants_, &clock_, /*keyed_reflection=*/true);
  EXPECT_TRUE(absl::IsUnauthenticated(access_->Admit({}, reflection).status()));
  EXPECT_TRUE(Admit("bare", reflection).ok());
}

TEST_F(AccessTest, OperatorsActForTheTenantThatTheyName) {
  EXPECT_EQ(Admit("operator", "Generate")->tenant, tenants_.nameless());
  EXPECT_EQ(Admit("operator", "Generate", "acme")->tenant,
            tenants_.Find("acme"));
  EXPECT_EQ(Admit("operator", "Generate", "nobody").status(),
            absl::NotFoundError(
                "metadata engram-tenant: there is no tenant \"nobody\""));
}

TEST_F(AccessTest, OthersActForTheirOwnTenant) {
  EXPECT_TRUE(Admit("admin", "Generate", "acme").ok());
  EXPECT_EQ(Admit("admin", "Generate", "other").status(),
            absl::PermissionDeniedError(
                "metadata engram-tenant is \"other\", and key \"admin\" is of "
                "tenant \"acme\""));
}

TEST_F(AccessTest, TwoTenantsAreNamedByNobody) {
  for (const char* name : {"operator", "admin"}) {
    const std::string authorization = AuthorizationOf(name);
    ShownIdentity shown;
    shown.authorizations = {authorization};
    shown.tenants = {"acme", "acme"};
    EXPECT_EQ(access_->Admit(shown, "Generate").status(),
              absl::PermissionDeniedError(
                  "metadata engram-tenant is there more than once"))
        << name;
  }
}

TEST_F(AccessTest, NobodyMakesMoreRequestsThanItsTenantMay) {
  const TenantHandle acme = tenants_.Find("acme");
  acme->SetLimits({.requests_per_second = 2});
  EXPECT_TRUE(Admit("admin", "Sessions.List").ok());
  const absl::Status refused = Admit("bare", "Models.List").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_TRUE(RetryAfter(refused).has_value());
  // These are counted by their turns, or are not the tenant's.
  EXPECT_TRUE(Admit("writer", "Generate").ok());
  EXPECT_TRUE(Admit("operator", "Sessions.List", "acme").ok());
  EXPECT_TRUE(Admit("scraper", "/metrics").ok());
  EXPECT_TRUE(Admit("other", "Sessions.List").ok());
  clock_.Advance(absl::Milliseconds(500));
  EXPECT_TRUE(Admit("admin", "Sessions.List").ok());
}

}  // namespace
}  // namespace engram
