#include "tools/shell/closest_word.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace engram {
namespace {

TEST(ClosestWord, FindsSwappedLettersAndBeginnings) {
  const std::vector<std::string> words = {"generate", "chat", "score"};
  EXPECT_EQ(ClosestWord("genreate", words), "generate");
  EXPECT_EQ(ClosestWord("gen", words), "generate");
  EXPECT_EQ(ClosestWord("chta", words), "chat");
  EXPECT_EQ(ClosestWord("xyz", words), "");
}

TEST(DidYouMean, EndsAnErrorWithTheWordIfOneIsNear) {
  EXPECT_EQ(DidYouMean("chta", {"chat"}), "; did you mean chat?");
  EXPECT_EQ(DidYouMean("chta", {"chat"}, "--"), "; did you mean --chat?");
  EXPECT_EQ(DidYouMean("xyz", {"chat"}), "");
}

TEST(ClosestWord, DoesNotLookForWordsLongerThanAny) {
  EXPECT_EQ(ClosestWord(std::string(1 << 20, 'x'), {"generate"}), "");
}

}  // namespace
}  // namespace engram
