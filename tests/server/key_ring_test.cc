#include "server/key_ring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "server/clock.h"
#include "tests/support/temporary_folder.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

// Of SHA-256 of "abc".
constexpr char kAbc[] =
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

class KeyRingTest : public ::testing::Test {
 protected:
  // One key, "abc", of this name and tenant.
  void Write(const std::string& name, const std::string& tenant,
             int streams = 1) {
    folder_.Write(
        "keys", absl::StrCat(R"({"keys": [{"name": ")", name,
                             R"(", "tenant": ")", tenant, R"(", "sha256": ")",
                             kAbc, R"(", "roles": [], "limits": {"streams": )",
                             streams, "}}]}"));
  }

  absl::StatusOr<std::unique_ptr<KeyRing>> Load(
      bool asks_certificates = false) {
    return KeyRing::Load(folder_.File("keys"), asks_certificates, &tenants_);
  }

  std::unique_ptr<KeyRing> LoadGood() {
    auto ring = Load();
    ENGRAM_CHECK_OK(ring.status());
    return *std::move(ring);
  }

  TemporaryFolder folder_;
  Tenants tenants_;
};

TEST_F(KeyRingTest, KeysAreTakenAndGivenUpAsTheFileSays) {
  Write("first", "acme", 1);
  const auto ring = LoadGood();
  EXPECT_EQ(ring->current()->FindSent("abc")->name, "first");
  const TenantHandle acme = tenants_.Find("acme");
  EXPECT_EQ(acme->limits().streams, 1);
  Write("second", "acme", 2);
  ring->Refresh();
  EXPECT_EQ(ring->current()->FindSent("abc")->name, "second");
  EXPECT_EQ(tenants_.Find("acme"), acme);
  EXPECT_EQ(acme->limits().streams, 2);
  folder_.Write("keys", R"({"keys": []})");
  ring->Refresh();
  EXPECT_EQ(ring->current()->FindSent("abc"), nullptr);
  EXPECT_EQ(ring->failures(), 0);
}

TEST_F(KeyRingTest, WhatStaysBrokenIsCountedOnceAndChangesNothing) {
  Write("first", "acme");
  const auto ring = LoadGood();
  const auto first = ring->current();
  folder_.Write("keys", R"({"keys": [)");
  ring->Refresh();
  EXPECT_EQ(ring->failures(), 0) << "it may be half written";
  for (int i = 0; i < 5; ++i) ring->Refresh();
  EXPECT_EQ(ring->failures(), 1);
  std::filesystem::remove(folder_.File("keys"));
  for (int i = 0; i < 5; ++i) ring->Refresh();
  EXPECT_EQ(ring->failures(), 2);
  EXPECT_EQ(ring->current(), first);
  Write("second", "other");
  ring->Refresh();
  EXPECT_EQ(ring->current()->FindSent("abc")->name, "second");
}

TEST_F(KeyRingTest, AFileThatCannotBeUsedIsToldByItsName) {
  EXPECT_THAT(std::string(Load().status().message()),
              HasSubstr(folder_.File("keys")));
  folder_.Write("keys", "{}");
  EXPECT_THAT(std::string(Load().status().message()),
              HasSubstr(folder_.File("keys")));
}

TEST_F(KeyRingTest, ACertificateAloneIsAKeyOnlyWhereClientsAreAskedForOne) {
  folder_.Write("keys", R"({"keys": [{"name": "robot", "tenant": "t",
      "certificate": "robot.example", "roles": []}]})");
  const auto refused = Load();
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("key \"robot\" is a certificate, and clients are asked "
                        "for one only with --tls-client-ca"));
  EXPECT_TRUE(Load(/*asks_certificates=*/true).ok());
}

TEST_F(KeyRingTest, ChangesAreFoundByItself) {
  Write("first", "acme");
  const auto ring = LoadGood();
  ring->Watch(absl::Milliseconds(1));
  Write("second", "acme");
  const absl::Time limit = RealClock()->Now() + absl::Minutes(1);
  while (ring->current()->FindSent("abc")->name == "first" &&
         RealClock()->Now() < limit) {
  }
  EXPECT_EQ(ring->current()->FindSent("abc")->name, "second");
}

}  // namespace
}  // namespace engram
