#include "server/request_id.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/named.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

using Code = absl::StatusCode;

TEST(CheckId, TakesLettersDigitsAndFourSigns) {
  EXPECT_TRUE(CheckId("f", "aZ09._:-").ok());
  EXPECT_TRUE(CheckId("f", std::string(128, 'x')).ok());
}

TEST(CheckId, RefusesByFieldAndValue) {
  EXPECT_EQ(CheckId("f", "").code(), Code::kInvalidArgument);
  EXPECT_THAT(std::string(CheckId("f", std::string(129, 'x')).message()),
              HasSubstr("f has 129 characters, limit 1 to 128"));
  for (const char* bad : {"a b", "a/b", "\xc3\xbc", "a\n"}) {
    EXPECT_THAT(std::string(CheckId("f", bad).message()),
                AllOf(HasSubstr("f \""), HasSubstr("outside")));
  }
}

TEST(RandomId, IsAnIdAndNeverTheSame) {
  EXPECT_TRUE(CheckId("f", RandomId()).ok());
  EXPECT_EQ(RandomId().size(), 32);
  EXPECT_NE(RandomId(), RandomId());
}

TEST(NewRequestId, IsAnIdThatTellsItsVersion) {
  const std::string id = NewRequestId(Named("a"), 12);
  EXPECT_TRUE(CheckId("f", id).ok());
  EXPECT_THAT(id, MatchesRegex("[0-9a-f]{32}-12"));
  EXPECT_EQ(VersionOfRequestId(Named("a"), id), 12);
  EXPECT_NE(NewRequestId(Named("a"), 12), id);
  EXPECT_EQ(VersionOfRequestId(Named("a"), NewRequestId(Named("a"), 0)), 0);
}

TEST(NewRequestId, IsOfOneSession) {
  EXPECT_EQ(VersionOfRequestId(Named("b"), NewRequestId(Named("a"), 12)),
            std::nullopt);
}

TEST(VersionOfRequestId, IsNothingOfIdsThatWereNotMadeSo) {
  std::string other_version = NewRequestId(Named("a"), 12);
  other_version.back() = '3';
  for (const std::string& id :
       {std::string("r1"), std::string(), RandomId(), other_version,
        absl::StrCat(RandomId(), "-12"), absl::StrCat(RandomId(), "-"),
        NewRequestId(Named("a"), 12).substr(1),
        NewRequestId(Named("a"), 12) + "x"}) {
    EXPECT_EQ(VersionOfRequestId(Named("a"), id), std::nullopt) << id;
  }
}

}  // namespace
}  // namespace engram
