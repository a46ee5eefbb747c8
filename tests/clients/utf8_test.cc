#include "clients/cpp/utf8.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "engram/v1/generation.pb.h"
#include "engram/v1/sessions.pb.h"

namespace engram::client {
namespace {

std::string Wrong(absl::string_view text) {
  return std::string(CheckUtf8(text).message());
}

TEST(CheckUtf8, TakesTheFirstAndLastCharacterOfEachLength) {
  for (const char* text :
       {"", "a", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
        "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf",
        "na\xc3\xafve \xf0\x9f\x98\x80!"}) {
    EXPECT_TRUE(CheckUtf8(text).ok()) << Wrong(text);
  }
  EXPECT_TRUE(CheckUtf8(absl::string_view("a\0b", 3)).ok());
}

TEST(CheckUtf8, NamesTheFirstByteThatIsNot) {
  EXPECT_EQ(Wrong("ab\xff"), "byte 3 (0xff) is not UTF-8");
  EXPECT_EQ(Wrong("\xc3\xa9\x80"), "byte 3 (0x80) is not UTF-8");
  EXPECT_EQ(Wrong("caf\xe9"), "byte 4 (0xe9) is not UTF-8");
}

TEST(CheckUtf8, RefusesOverlongSurrogateCutAndTooLargeForms) {
  for (const char* text :
       {"\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80",
        "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xc3",
        "\xe2\x82", "\xf0\x9f\x98", "\xc3(", "\xe2(\xa1", "\xe2\x82(",
        "\xf0\x9f\x98("}) {
    EXPECT_THAT(Wrong(text), ::testing::StartsWith("byte 1 (0x")) << text;
  }
}

TEST(CheckStrings, NamesTheFieldWhereverItIs) {
  v1::GenerateRequest turn;
  turn.set_text("fine");
  EXPECT_TRUE(CheckStrings(turn).ok());
  turn.set_text(std::string(1, '\xff'));
  EXPECT_EQ(CheckStrings(turn).message(), "text: byte 1 (0xff) is not UTF-8");
  turn.clear_prompt();
  turn.mutable_stopping()->add_stop("a\xff");
  EXPECT_EQ(CheckStrings(turn).message(), "stop: byte 2 (0xff) is not UTF-8");

  v1::CreateSessionRequest create;
  (*create.mutable_labels())["key"] = std::string(1, '\xff');
  EXPECT_EQ(CheckStrings(create).message(),
            "value: byte 1 (0xff) is not UTF-8");
}

TEST(CheckStrings, LeavesBytesAlone) {
  v1::Token token;
  token.set_bytes("\xff");
  EXPECT_TRUE(CheckStrings(token).ok());
}

}  // namespace
}  // namespace engram::client
