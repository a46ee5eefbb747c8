#include "tools/shell/duration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using ::testing::HasSubstr;

TEST(ParseDuration, TakesUnitsAndBareSeconds) {
  EXPECT_EQ(*ParseDuration("1500ms"), absl::Milliseconds(1500));
  EXPECT_EQ(*ParseDuration("30s"), absl::Seconds(30));
  EXPECT_EQ(*ParseDuration("1h30m"), absl::Minutes(90));
  EXPECT_EQ(*ParseDuration("5"), absl::Seconds(5));
  EXPECT_EQ(*ParseDuration("0.5"), absl::Milliseconds(500));
  EXPECT_EQ(*ParseDuration("0"), absl::ZeroDuration());
  EXPECT_EQ(*ParseDuration("inf"), absl::InfiniteDuration());
}

TEST(ParseDuration, RefusesWhatIsNoneByName) {
  for (const char* text :
       {"", "soon", "-1", "-1s", "nan", "5 s", "5 minutes", "1d"}) {
    const absl::Status status = ParseDuration(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat("\"", text, "\" is not a duration")));
  }
}

}  // namespace
}  // namespace engram
