#include "server/stop_matcher.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace engram {
namespace {

// The same by looking at every string anew after each byte.
size_t LongestAtEnd(const std::vector<std::string>& strings,
                    const std::string& text) {
  size_t longest = 0;
  for (const std::string& string : strings) {
    if (text.ends_with(string)) longest = std::max(longest, string.size());
  }
  return longest;
}

size_t LongestBegun(const std::vector<std::string>& strings,
                    const std::string& text) {
  size_t longest = 0;
  for (const std::string& string : strings) {
    for (size_t length = 1; length <= string.size(); ++length) {
      if (text.ends_with(string.substr(0, length))) {
        longest = std::max(longest, length);
      }
    }
  }
  return longest;
}

std::string RandomText(std::mt19937* random, size_t bytes) {
  std::string text(bytes, ' ');
  for (char& byte : text) byte = static_cast<char>('a' + (*random)() % 3);
  return text;
}

TEST(StopMatcher, FindsWhatLookingAtEveryStringFinds) {
  std::mt19937 random(1);
  int matches = 0;
  for (int round = 0; round < 300; ++round) {
    std::vector<std::string> strings;
    for (size_t i = random() % 6; i > 0; --i) {
      strings.push_back(RandomText(&random, 1 + random() % 6));
    }
    StopMatcher matcher(strings);
    std::string text;
    for (const char byte : RandomText(&random, 100)) {
      text.push_back(byte);
      const size_t expected = LongestAtEnd(strings, text);
      matches += expected > 0;
      ASSERT_EQ(matcher.Append(byte), expected) << text;
      ASSERT_EQ(matcher.pending(), LongestBegun(strings, text)) << text;
    }
  }
  EXPECT_GT(matches, 1000);
}

TEST(StopMatcher, TakesEveryByte) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  StopMatcher matcher({all});
  size_t found = 0;
  for (const char byte : "x" + all) found = matcher.Append(byte);
  EXPECT_EQ(found, 256u);
}

TEST(StopMatcher, ForgetsWhatCameBeforeARestart) {
  StopMatcher matcher({"ab"});
  matcher.Append('a');
  matcher.Restart();
  EXPECT_EQ(matcher.pending(), 0u);
  EXPECT_EQ(matcher.Append('b'), 0u);
}

// What made matching quadratic: strings whose every end may begin a match.
TEST(StopMatcher, TakesTheSameTimeForHostileStringsAndText) {
  std::vector<std::string> strings;
  for (int i = 0; i < 16; ++i) {
    strings.push_back(std::string(255, 'a') + static_cast<char>('b' + i));
  }
  StopMatcher matcher(strings);
  size_t found = 0;
  for (int i = 0; i < 10'000'000; ++i) found += matcher.Append('a');
  EXPECT_EQ(found, 0u);
  EXPECT_EQ(matcher.pending(), 255u);
}

}  // namespace
}  // namespace engram
