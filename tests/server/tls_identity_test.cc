#include "server/tls_identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "tests/support/fake_clock.h"
#include "tests/support/temporary_folder.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

// Two pairs, made by openssl's program, and the files that are served.
class TlsIdentityTest : public ::testing::Test {
 protected:
  TlsIdentityTest() {
    // Both are valid for two days from the machine's now on.
    clock_.Set(RealClock()->Now() + absl::Hours(1));
    for (const char* name : {"first", "second"}) MakePair(name, "prime256v1");
    Serve("crt", "first");
    Serve("key", "first");
  }

  void MakePair(const std::string& name, const std::string& curve) {
    const std::string command = absl::StrCat(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:", curve,
        " -nodes -subj /CN=", name, " -days 2 -keyout ", folder_.File(name),
        ".key -out ", folder_.File(name), ".crt 2> ", folder_.File("errors"));
    ENGRAM_CHECK(std::system(command.c_str()) == 0);
  }

  void Serve(const std::string& kind, const std::string& of) {
    std::filesystem::copy_file(
        folder_.File(absl::StrCat(of, ".", kind)), folder_.File(kind),
        std::filesystem::copy_options::overwrite_existing);
  }

  std::unique_ptr<TlsIdentity> Load() {
    auto loaded = TlsIdentity::Load(
        {folder_.File("crt"), folder_.File("key"), /*authorities=*/""},
        &clock_);
    ENGRAM_CHECK_OK(loaded.status());
    return *std::move(loaded);
  }

  TemporaryFolder folder_;
  FakeClock clock_;
};

TEST_F(TlsIdentityTest, AnotherPairIsTheNextVersion) {
  const auto identity = Load();
  EXPECT_FALSE(identity->asks_clients());
  const auto first = identity->current();
  EXPECT_EQ(first->number, 1);
  EXPECT_GT(first->expiry, clock_.Now() + absl::Hours(40));
  identity->Refresh();
  EXPECT_EQ(identity->current(), first);
  Serve("crt", "second");
  Serve("key", "second");
  identity->Refresh();
  EXPECT_EQ(identity->current()->number, 2);
  EXPECT_NE(identity->current()->texts, first->texts);
  EXPECT_EQ(identity->failures(), 0);
}

TEST_F(TlsIdentityTest, APairOfWhichOneFileIsStillToComeIsNoFailure) {
  const auto identity = Load();
  Serve("crt", "second");
  identity->Refresh();
  EXPECT_EQ(identity->current()->number, 1);
  Serve("key", "second");
  identity->Refresh();
  EXPECT_EQ(identity->current()->number, 2);
  EXPECT_EQ(identity->failures(), 0);
}

TEST_F(TlsIdentityTest, WhatStaysBrokenIsCountedOnceAndChangesNothing) {
  const auto identity = Load();
  const auto first = identity->current();
  Serve("crt", "second");
  for (int i = 0; i < 5; ++i) identity->Refresh();
  EXPECT_EQ(identity->failures(), 1);
  folder_.Write("key", "damaged");
  for (int i = 0; i < 5; ++i) identity->Refresh();
  EXPECT_EQ(identity->failures(), 2);
  std::filesystem::remove(folder_.File("crt"));
  for (int i = 0; i < 5; ++i) identity->Refresh();
  EXPECT_EQ(identity->failures(), 3);
  EXPECT_EQ(identity->current(), first);
  // What was there before is no change.
  Serve("crt", "first");
  Serve("key", "first");
  identity->Refresh();
  EXPECT_EQ(identity->current(), first);
  EXPECT_EQ(identity->failures(), 3);
}

TEST_F(TlsIdentityTest, APairThatOnlyOneOfThePortsCanUseIsNotTaken) {
  const auto identity = Load();
  // OpenSSL knows this curve, GnuTLS does not.
  MakePair("odd", "secp256k1");
  Serve("crt", "odd");
  Serve("key", "odd");
  identity->Refresh();
  identity->Refresh();
  EXPECT_EQ(identity->current()->number, 1);
  EXPECT_EQ(identity->failures(), 1);
}

TEST_F(TlsIdentityTest, APairThatHasExpiredIsNotTaken) {
  const auto identity = Load();
  Serve("crt", "second");
  Serve("key", "second");
  clock_.Advance(absl::Hours(72));
  identity->Refresh();
  identity->Refresh();
  EXPECT_EQ(identity->current()->number, 1);
  EXPECT_EQ(identity->failures(), 1);
}

TEST_F(TlsIdentityTest, APairIsNotTakenBeforeItsTime) {
  clock_.Set(absl::FromUnixSeconds(0));
  const auto loaded = TlsIdentity::Load(
      {folder_.File("crt"), folder_.File("key"), /*authorities=*/""}, &clock_);
  EXPECT_THAT(std::string(loaded.status().message()),
              HasSubstr("is not valid until"));
}

TEST_F(TlsIdentityTest, ChangesAreFoundByItself) {
  const auto identity = Load();
  identity->Watch(absl::Milliseconds(1));
  Serve("crt", "second");
  Serve("key", "second");
  const absl::Time limit = RealClock()->Now() + absl::Minutes(1);
  while (identity->current()->number == 1 && RealClock()->Now() < limit) {
  }
  EXPECT_EQ(identity->current()->number, 2);
}

}  // namespace
}  // namespace engram
