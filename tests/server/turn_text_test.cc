#include "server/turn_text.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

using ::testing::ElementsAre;

const Tokenizer* ByteTokenizer() {
  static const Tokenizer* const tokenizer = MakeByteTokenizer().release();
  return tokenizer;
}

// What is shown after each token, then "|" and the tail; "X" where it stopped.
std::string Show(const std::vector<std::string>& stops, const Tokens& ids) {
  TurnText text(ByteTokenizer(), stops);
  std::string shown;
  for (int32_t id : ids) {
    const TurnText::Piece piece = text.Append(id);
    shown += piece.text;
    if (piece.stopped) return shown + "X";
  }
  return shown + "|" + text.Flush();
}

TEST(TurnText, ShowsTextAtOnceWithoutStopStrings) {
  EXPECT_EQ(Show({}, Bytes("plain")), "plain|");
}

TEST(TurnText, SaysNothingAfterAStopString) {
  TurnText text(ByteTokenizer(), {"!"});
  EXPECT_TRUE(text.Append('!').stopped);
  const TurnText::Piece piece = text.Append('a');
  EXPECT_TRUE(piece.stopped);
  EXPECT_EQ(piece.text + piece.bytes + text.Flush(), "");
}

TEST(TurnText, FindsAStopStringAcrossTokens) {
  EXPECT_EQ(Show({"END"}, Bytes("one END two")), "one X");
}

TEST(TurnText, FindsAStopStringInsideOneToken) {
  EXPECT_EQ(Show({"ll"}, {'a', kHelloToken, 'b'}), "aheX");
}

TEST(TurnText, FindsAStopStringThatBeginsInsideAToken) {
  EXPECT_EQ(Show({"lo wo"}, {kHelloToken, ' ', 'w', 'o', 'r'}), "helX");
}

TEST(TurnText, CutsAtTheFirstOfSeveralStopStrings) {
  EXPECT_EQ(Show({"llo", "el"}, {kHelloToken}), "hX");
  EXPECT_EQ(Show({"zz", "b"}, Bytes("abzz")), "aX");
}

TEST(TurnText, HoldsBackWhatMayBecomeAStopString) {
  TurnText text(ByteTokenizer(), {"STOP"});
  EXPECT_EQ(text.Append('a').text, "a");
  EXPECT_EQ(text.Append('S').text, "");
  EXPECT_EQ(text.Append('T').text, "");
  EXPECT_EQ(text.Append('x').text, "STx");
}

TEST(TurnText, HoldsBackOnlyTheEndThatMayStillMatch) {
  TurnText text(ByteTokenizer(), {"aab"});
  EXPECT_EQ(text.Append('a').text, "");
  EXPECT_EQ(text.Append('a').text, "");
  // "aaa": the first is free, the last two may begin the stop string.
  EXPECT_EQ(text.Append('a').text, "a");
  EXPECT_TRUE(text.Append('b').stopped);
}

TEST(TurnText, HoldsBackForTheLongestOfSeveralStopStrings) {
  TurnText text(ByteTokenizer(), {"bX", "abcd"});
  EXPECT_EQ(text.Append('a').text, "");
  EXPECT_EQ(text.Append('b').text, "");
  EXPECT_EQ(text.Append('c').text, "");
  EXPECT_EQ(text.Append('x').text, "abcx");
}

TEST(TurnText, TellsTheHeldBackTailAtTheEnd) {
  EXPECT_EQ(Show({"STOP"}, Bytes("no STO")), "no |STO");
}

TEST(TurnText, TellsNothingAfterAStop) {
  TurnText text(ByteTokenizer(), {"b"});
  text.Append('a');
  EXPECT_TRUE(text.Append('b').stopped);
  EXPECT_EQ(text.Flush(), "");
}

TEST(TurnText, WaitsForWholeCharacters) {
  TurnText text(ByteTokenizer(), {});
  std::vector<std::string> shown;
  for (int32_t id : Bytes("\xf0\x9f\x8c\xb2!")) {
    shown.push_back(text.Append(id).text);
  }
  EXPECT_THAT(shown, ElementsAre("", "", "", "\xf0\x9f\x8c\xb2", "!"));
}

TEST(TurnText, GivesTheBytesOfEachTokenAtOnce) {
  TurnText text(ByteTokenizer(), {});
  EXPECT_EQ(text.Append(0xe2).bytes, "\xe2");
}

TEST(TurnText, ReplacesACharacterThatIsNeverCompleted) {
  EXPECT_EQ(Show({}, {'a', 0xe2, 0x82}), "a|\xef\xbf\xbd");
}

TEST(TurnText, FindsStopStringsOfManyByteCharacters) {
  EXPECT_EQ(Show({"\xc3\xbc\xe2\x82\xac"}, Bytes("a\xc3\xbc\xe2\x82\xac")),
            "aX");
  EXPECT_EQ(Show({"\xc3\xbcx"}, Bytes("a\xc3\xbcy")), "a\xc3\xbcy|");
}

TEST(TurnText, ShowsNoSpecialTokens) {
  EXPECT_EQ(Show({}, {'a', kEndOfText, 'b'}), "ab|");
}

TEST(TurnText, HasNoTextWithoutATokenizer) {
  TurnText text(nullptr, {});
  const TurnText::Piece piece = text.Append(3);
  EXPECT_EQ(piece.text, "");
  EXPECT_EQ(piece.bytes, "");
  EXPECT_EQ(text.Flush(), "");
}

TEST(MakeTokenEvent, GivesAStopTokenNoText) {
  TurnText text(ByteTokenizer(), {});
  const TokenOutcome outcome = MakeTokenEvent(&text, ByteTokenizer(), 3, 'b',
                                              true, std::nullopt, {});
  EXPECT_TRUE(outcome.stops);
  EXPECT_EQ(outcome.event.index, 3);
  EXPECT_EQ(outcome.event.id, 'b');
  EXPECT_EQ(outcome.event.text, "");
}

TEST(MakeTokenEvent, GivesAlternativesAsValidText) {
  TurnText text(ByteTokenizer(), {});
  const TokenOutcome outcome =
      MakeTokenEvent(&text, ByteTokenizer(), 0, 'b', false, -0.5f,
                     {{'b', -0.5f}, {0xe2, -1.5f}});
  EXPECT_EQ(outcome.event.logprob, -0.5f);
  ASSERT_EQ(outcome.event.top.size(), 2);
  EXPECT_EQ(outcome.event.top[0].text, "b");
  EXPECT_EQ(outcome.event.top[1].text, "\xef\xbf\xbd");
  EXPECT_EQ(outcome.event.top[1].logprob, -1.5f);
}

}  // namespace
}  // namespace engram
