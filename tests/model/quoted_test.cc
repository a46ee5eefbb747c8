#include "model/quoted.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "model/unicode.h"

namespace engram {
namespace {

TEST(Quoted, ShowsAShortStringAsItIs) {
  EXPECT_EQ(Quoted(""), "\"\"");
  EXPECT_EQ(Quoted("mamba"), "\"mamba\"");
  EXPECT_EQ(Quoted("h\xc3\xa4?"), "\"h\xc3\xa4?\"");
  EXPECT_EQ(Quoted(std::string(64, 'a')),
            absl::StrCat("\"", std::string(64, 'a'), "\""));
}

TEST(Quoted, CutsALongStringAndTellsItsLength) {
  EXPECT_EQ(Quoted(std::string(65, 'a')),
            absl::StrCat("\"", std::string(64, 'a'), "...\" (65 bytes)"));
  EXPECT_EQ(Quoted(std::string(10'000'000, 'a')),
            absl::StrCat("\"", std::string(64, 'a'), "...\" (10000000 bytes)"));
}

TEST(Quoted, CutsBetweenCharacters) {
  const std::string text =
      absl::StrCat(std::string(63, 'a'), "\xc3\xa4\xc3\xa4");
  EXPECT_EQ(Quoted(text),
            absl::StrCat("\"", std::string(63, 'a'), "...\" (67 bytes)"));
}

TEST(Quoted, EscapesWhatCouldBreakAMessage) {
  EXPECT_EQ(Quoted("a\"b\\c\n\x7f"), "\"a\\\"b\\\\c\\x0a\\x7f\"");
  EXPECT_EQ(Quoted("\xff\xe2\x82"), "\"\\xff\\xe2\\x82\"");
}

TEST(Quoted, IsShortAndUtf8WhateverTheBytes) {
  for (const char byte : {'\x80', '\xff', '\xe2', '\0'}) {
    const std::string quoted = Quoted(std::string(1000, byte));
    EXPECT_LE(quoted.size(), 4 * 64 + 20u);
    EXPECT_EQ(FindInvalidUtf8(quoted), std::string::npos);
  }
}

TEST(Shortened, CutsTheSameWithoutQuotes) {
  EXPECT_EQ(Shortened("a\"b"), "a\"b");
  EXPECT_EQ(Shortened(std::string(100, 'a')),
            absl::StrCat(std::string(64, 'a'), "... (100 bytes)"));
}

}  // namespace
}  // namespace engram
