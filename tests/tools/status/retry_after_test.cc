#include "tools/status/retry_after.h"

#include <gtest/gtest.h>

#include <optional>

namespace engram {
namespace {

TEST(RetryAfter, TravelsWithAStatus) {
  const absl::Status status =
      WithRetryAfter(absl::UnavailableError("busy"), absl::Milliseconds(1250));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "busy");
  EXPECT_EQ(RetryAfter(status), absl::Milliseconds(1250));
  EXPECT_EQ(RetryAfter(WithRetryAfter(status, absl::ZeroDuration())),
            absl::Milliseconds(1));
  EXPECT_FALSE(RetryAfter(absl::UnavailableError("busy")).has_value());
}

TEST(RetryAfter, IsReadAsItIsWritten) {
  EXPECT_EQ(RetryAfterText(absl::Milliseconds(1250)), "1250");
  EXPECT_EQ(RetryAfterText(absl::Microseconds(1999)), "1");
  EXPECT_EQ(ParseRetryAfter("1250"), absl::Milliseconds(1250));
  EXPECT_EQ(ParseRetryAfter("0"), absl::ZeroDuration());
}

TEST(RetryAfter, IsNothingWhereNoNumberIsTold) {
  for (const char* text :
       {"", "soon", "-1", "1.5", "10s", "99999999999999999999"}) {
    EXPECT_EQ(ParseRetryAfter(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace engram
