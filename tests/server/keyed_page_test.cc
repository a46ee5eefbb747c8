#include "server/keyed_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/status.h"
#include "tests/support/key_file.h"
#include "tests/support/temporary_folder.h"

namespace engram {
namespace {

class KeyedPageTest : public ::testing::Test {
 protected:
  KeyedPageTest() {
    folder_.Write(
        "keys",
        KeysText({KeyEntry("scraper", "t",
                           R"("roles": ["metrics"], "certificate": "scraper")"),
                  KeyEntry("writer", "t", R"("roles": ["generate"])")}));
    auto ring = KeyRing::Load(folder_.File("keys"), false, &tenants_);
    ENGRAM_CHECK_OK(ring.status());
    ring_ = *std::move(ring);
  }

  HttpPage Ask(const HttpRequest& request) {
    const Access access(ring_.get(), &tenants_, RealClock());
    return KeyedPage(
        access, request, "/metrics", [] { return HttpPage{.body = "numbers"}; },
        [this](const absl::Status&) { ++refused_; });
  }

  static HttpRequest With(const std::string& key) {
    HttpRequest request;
    request.authorization = AuthorizationOf(key);
    return request;
  }

  TemporaryFolder folder_;
  Tenants tenants_;
  std::unique_ptr<KeyRing> ring_;
  int refused_ = 0;
};

TEST_F(KeyedPageTest, AKeyWithTheRoleOpensIt) {
  EXPECT_EQ(Ask(With("scraper")).body, "numbers");
  HttpRequest request;
  request.certificate_names = [] {
    return std::vector<std::string>{"scraper"};
  };
  EXPECT_EQ(Ask(request).body, "numbers");
  EXPECT_EQ(refused_, 0);
}

TEST_F(KeyedPageTest, OthersAreToldWhyNot) {
  const HttpPage none = Ask({});
  EXPECT_EQ(none.status, 401);
  EXPECT_EQ(none.body,
            "no key: send metadata authorization: Bearer KEY\nHere it is the "
            "header Authorization, of a key with the role \"metrics\".\n");
  EXPECT_EQ(Ask(With("nobody")).status, 401);
  const HttpPage writer = Ask(With("writer"));
  EXPECT_EQ(writer.status, 403);
  EXPECT_EQ(writer.body, "/metrics: key \"writer\" has no role \"metrics\"\n");
  EXPECT_EQ(refused_, 3);
}

}  // namespace
}  // namespace engram
