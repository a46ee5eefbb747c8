#include "server/tenant.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class TenantTest : public ::testing::Test {
 protected:
  absl::StatusOr<TenantPlace> Take(int64_t prompt_tokens = 1) {
    return TenantPlace::Take(tenant_, prompt_tokens, now_);
  }
  // A refusal that says so, and when to come again.
  static void ExpectRefused(const absl::Status& status,
                            const ::testing::Matcher<std::string>& message,
                            absl::Duration wait) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("tenant \"acme\""), message));
    EXPECT_EQ(RetryAfter(status), wait) << status;
  }

  absl::Time now_ = absl::FromUnixSeconds(1700000000);
  TenantHandle tenant_ = std::make_shared<Tenant>("acme", 1);
};

// --- Streams.

TEST_F(TenantTest, HasNoMoreStreamsThanItMay) {
  tenant_->SetLimits({.streams = 2});
  std::vector<TenantPlace> places;
  for (int i = 0; i < 2; ++i) places.push_back(*Take());
  ExpectRefused(Take().status(),
                AllOf(HasSubstr("has 2 streams, limit 2 (streams)"),
                      HasSubstr("try again in 1s")),
                absl::Seconds(1));
  EXPECT_EQ(tenant_->streams(), 2);
  places.pop_back();
  EXPECT_TRUE(Take().ok());
  EXPECT_EQ(tenant_->streams(), 1);
}

TEST_F(TenantTest, KeepsTheStreamsThatItHasWhenItsLimitFalls) {
  std::vector<TenantPlace> places;
  for (int i = 0; i < 3; ++i) places.push_back(*Take());
  tenant_->SetLimits({.streams = 2});
  EXPECT_EQ(tenant_->streams(), 3);
  places.pop_back();
  EXPECT_FALSE(Take().ok());
  places.pop_back();
  EXPECT_TRUE(Take().ok());
}

TEST_F(TenantTest, CountsAPlaceOnceHoweverItIsMoved) {
  TenantPlace place = *Take();
  TenantPlace other = std::move(place);
  place = *Take();
  EXPECT_EQ(tenant_->streams(), 2);
  other = {};
  EXPECT_EQ(tenant_->streams(), 1);
  place = std::move(other);
  EXPECT_EQ(tenant_->streams(), 0);
}

TEST_F(TenantTest, OfNoNameNeedsNoPlace) {
  absl::StatusOr<TenantPlace> place = TenantPlace::Take(nullptr, 9, now_);
  ASSERT_TRUE(place.ok());
  place->Fed(9);
}

// --- Requests.

TEST_F(TenantTest, MakesNoMoreRequestsThanItMay) {
  tenant_->SetLimits({.requests_per_second = 4});
  EXPECT_TRUE(tenant_->CountRequest(now_).ok());
  EXPECT_TRUE(tenant_->CountRequest(now_).ok());
  for (int i = 0; i < 3; ++i) {
    ExpectRefused(tenant_->CountRequest(now_),
                  AllOf(HasSubstr("made the 2 requests"),
                        HasSubstr("limit 4 a second (requests_per_second)"),
                        HasSubstr("try again in 250ms")),
                  absl::Milliseconds(250));
  }
  now_ += absl::Milliseconds(250);
  EXPECT_TRUE(tenant_->CountRequest(now_).ok());
  EXPECT_FALSE(tenant_->CountRequest(now_).ok());
}

TEST_F(TenantTest, IsToldToAskAgainEvenWhereNothingIsAllowed) {
  tenant_->SetLimits({.requests_per_second = 0});
  EXPECT_TRUE(tenant_->CountRequest(now_).ok());
  EXPECT_EQ(RetryAfter(tenant_->CountRequest(now_)), absl::Seconds(30));
}

TEST_F(TenantTest, MakesAsManyRequestsAsItLikesWithoutALimit) {
  for (int i = 0; i < 1000; ++i) {
    EXPECT_TRUE(tenant_->CountRequest(now_).ok());
  }
}

// --- Tokens.

TEST_F(TenantTest, FeedsNoMoreTokensThanItMay) {
  EXPECT_FALSE(tenant_->is_paced());
  EXPECT_EQ(tenant_->TakeTokens(1000, 1, now_), 1000);
  tenant_->SetLimits({.tokens_per_second = 100});
  EXPECT_TRUE(tenant_->is_paced());
  EXPECT_EQ(tenant_->TakeTokens(1000, 1, now_), 50);
  EXPECT_EQ(tenant_->TakeTokens(1000, 1, now_), 0);
  EXPECT_EQ(tenant_->TimeToNextToken(now_), absl::Milliseconds(10));
  tenant_->GiveBackTokens(20);
  EXPECT_EQ(tenant_->TakeTokens(15, 1, now_), 15);
  now_ += absl::Milliseconds(100);
  EXPECT_EQ(tenant_->TakeTokens(1000, 1, now_), 15);
}

// A prompt that is cut at 64 tokens only, at a pace of 100 a second.
TEST_F(TenantTest, MayFeedWhatIsNotCutAndWaitForItLater) {
  tenant_->SetLimits({.tokens_per_second = 100});
  int64_t taken = 0;
  for (int i = 0; i < 20000; ++i) {
    const int64_t tokens = tenant_->TakeTokens(512, 64, now_);
    EXPECT_TRUE(tokens == 0 || tokens == 64) << tokens;
    taken += tokens;
    now_ += absl::Milliseconds(1);
  }
  // The burst at first, and a chunk that is not paid yet.
  EXPECT_GE(taken, 2000);
  EXPECT_LE(taken, 2000 + 50 + 64);
}

TEST_F(TenantTest, IsRefusedWhileASecondOfItsPromptsWaits) {
  tenant_->SetLimits({.tokens_per_second = 100});
  TenantPlace first = *Take(60);
  TenantPlace second = *Take(90);
  ExpectRefused(Take().status(),
                AllOf(HasSubstr("has 150 tokens that wait to be fed"),
                      HasSubstr("limit 100 a second (tokens_per_second)")),
                absl::Milliseconds(500));
  first.Fed(40);
  EXPECT_FALSE(Take().ok());
  // All of it, and a token that was drawn; then one that ends unfed.
  first.Fed(20);
  first.Fed(1);
  EXPECT_TRUE(Take().ok());
  TenantPlace third = *Take(30);
  EXPECT_FALSE(Take().ok());
  second = {};
  EXPECT_TRUE(Take().ok());
}

TEST_F(TenantTest, MayAskForAPromptOfAnyLengthWhenNothingWaits) {
  tenant_->SetLimits({.tokens_per_second = 1});
  EXPECT_TRUE(Take(1000000).ok());
}

TEST_F(TenantTest, SaysWhatItsLimitsAre) {
  EXPECT_EQ(tenant_->name(), "acme");
  EXPECT_EQ(tenant_->number(), 1);
  EXPECT_EQ(tenant_->weight(), 1);
  tenant_->SetLimits({.sessions = 7, .weight = 2.5});
  EXPECT_EQ(tenant_->limits().sessions, 7);
  EXPECT_EQ(tenant_->weight(), 2.5);
  EXPECT_FALSE(tenant_->is_paced());
}

}  // namespace
}  // namespace engram
