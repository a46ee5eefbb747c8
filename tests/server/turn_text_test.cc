#include "server/turn_text.h"

#include <algorithm>
#include <memory>
#include <random>
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
  const TurnText::Piece more = text.Append('c');
  EXPECT_TRUE(more.stopped);
  EXPECT_EQ(more.text, "");
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

TEST(TurnText, GivesTheBytesOfASpecialToken) {
  TurnText text(ByteTokenizer(), {});
  const TurnText::Piece piece = text.Append(kEndOfText);
  EXPECT_EQ(piece.bytes, "<|endoftext|>");
  EXPECT_EQ(piece.text, "");
}

TEST(TurnText, StopsAtASpecialToken) {
  EXPECT_EQ(Show({"<|endoftext|>"}, {'a', kEndOfText}), "aX");
}

TEST(TurnText, StopsAtTextAndASpecialTokenTogether) {
  EXPECT_EQ(Show({"b<|endoftext|>"}, {'a', 'b', kEndOfText}), "aX");
  EXPECT_EQ(Show({"<|endoftext|>b"}, {'a', kEndOfText, 'b'}), "aX");
  EXPECT_EQ(Show({"text|>b"}, {'a', kEndOfText, 'b'}), "aX");
  EXPECT_EQ(Show({"b<|end"}, {'a', 'b', kEndOfText}), "aX");
}

TEST(TurnText, DoesNotMatchAcrossASpecialTokenAsIfItWereNotThere) {
  EXPECT_EQ(Show({"ab"}, {'a', kEndOfText, 'b'}), "ab|");
}

TEST(TurnText, ShowsTheTextAroundASpecialTokenThatWasHeldBack) {
  // "b<|endoftext|>c" is held back until it cannot be "b<|endoftext|>cX".
  TurnText text(ByteTokenizer(), {"b<|endoftext|>cX"});
  EXPECT_EQ(text.Append('a').text, "a");
  EXPECT_EQ(text.Append('b').text, "");
  EXPECT_EQ(text.Append(kEndOfText).text, "");
  EXPECT_EQ(text.Append('c').text, "");
  EXPECT_EQ(text.Append('d').text, "bcd");
  EXPECT_EQ(text.Flush(), "");
}

TEST(TurnText, TellsTheTailAroundASpecialTokenAtTheEnd) {
  EXPECT_EQ(Show({"b<|endoftext|>cX"}, {'a', 'b', kEndOfText, 'c'}), "a|bc");
  EXPECT_EQ(Show({"X<|endoftext|>Y"}, {'X', kEndOfText}), "|X");
}

TEST(TurnText, JoinsACharacterThatASpecialTokenCuts) {
  const Tokens ids = {'a', 0xe2, 0x82, kEndOfText, 0xac};
  EXPECT_EQ(Show({}, ids), "a\xe2\x82\xac|");
  // What stands before the special token is not "a".
  EXPECT_EQ(Show({"a<|endoftext|>"}, ids), "a\xe2\x82\xac|");
}

// By looking at all of the text anew after each token.
std::string ShowByReference(const std::vector<std::string>& stops,
                            const Tokens& ids) {
  std::string all, shown;
  std::vector<bool> is_shown;
  const auto visible = [&](size_t bytes) {
    std::string text;
    for (size_t i = 0; i < bytes; ++i) {
      if (is_shown[i]) text.push_back(all[i]);
    }
    return text;
  };
  for (int32_t id : ids) {
    all += ByteTokenizer()->Bytes(id, false);
    is_shown.resize(all.size(), !ByteTokenizer()->IsSpecial(id));
    size_t cut = std::string::npos;
    for (const std::string& stop : stops) cut = std::min(cut, all.find(stop));
    if (cut != std::string::npos) return visible(cut) + "X";
    size_t held_back = 0;
    for (const std::string& stop : stops) {
      for (size_t length = 1; length < stop.size(); ++length) {
        if (all.ends_with(stop.substr(0, length))) {
          held_back = std::max(held_back, length);
        }
      }
    }
    shown = visible(all.size() - held_back);
  }
  return shown + "|" + visible(all.size()).substr(shown.size());
}

TEST(TurnText, ShowsWhatLookingAtAllOfTheTextShows) {
  std::mt19937 random(1);
  const std::vector<int32_t> tokens = {'h', 'e',         'l',
                                       'o', kHelloToken, kEndOfText};
  const auto random_ids = [&](size_t most) {
    Tokens ids;
    for (size_t i = 1 + random() % most; i > 0; --i) {
      ids.push_back(tokens[random() % tokens.size()]);
    }
    return ids;
  };
  int stopped = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = random() % 4; i > 0; --i) {
      const std::string whole = ByteTokenizer()->Decode(random_ids(4));
      const size_t begin = random() % whole.size();
      stops.push_back(whole.substr(begin, 1 + random() % whole.size()));
    }
    const Tokens ids = random_ids(20);
    const std::string expected = ShowByReference(stops, ids);
    stopped += expected.back() == 'X';
    ASSERT_EQ(Show(stops, ids), expected);
  }
  EXPECT_GT(stopped, 500);
}

TEST(TurnText, HasNoTextWithoutATokenizer) {
  TurnText text(nullptr, {});
  const TurnText::Piece piece = text.Append(3);
  EXPECT_EQ(piece.text, "");
  EXPECT_EQ(piece.bytes, "");
  EXPECT_EQ(text.Flush(), "");
}

SampledToken Sampled(int32_t index, int32_t id, bool is_stop_token) {
  SampledToken token;
  token.index = index;
  token.id = id;
  token.is_stop_token = is_stop_token;
  return token;
}

TEST(SampledTokenTest, AStopTokenHasNoText) {
  TurnText text(ByteTokenizer(), {});
  SampledToken token = Sampled(3, 'b', true);
  token.Read(&text);
  EXPECT_TRUE(token.ends_turn());
  const TokenEvent event = MakeTokenEvent(token, ByteTokenizer());
  EXPECT_EQ(event.index, 3);
  EXPECT_EQ(event.id, 'b');
  EXPECT_EQ(event.text, "");
  EXPECT_EQ(event.bytes, "b");
}

TEST(SampledTokenTest, AStopTokenEndsTheTurnThoughNobodyHasReadIt) {
  EXPECT_TRUE(Sampled(0, 'b', true).ends_turn());
  EXPECT_FALSE(Sampled(0, 'b', false).ends_turn());
}

TEST(SampledTokenTest, AStopTokenMayCompleteAStopString) {
  TurnText text(ByteTokenizer(), {"ab"});
  text.Append('a');
  SampledToken token = Sampled(1, 'b', true);
  token.Read(&text);
  EXPECT_TRUE(token.ends_turn());
  EXPECT_EQ(text.Flush(), "");
}

TEST(SampledTokenTest, AStopStringEndsTheTurn) {
  TurnText text(ByteTokenizer(), {"ab"});
  SampledToken a = Sampled(0, 'a', false);
  a.Read(&text);
  EXPECT_FALSE(a.ends_turn());
  SampledToken b = Sampled(1, 'b', false);
  b.Read(&text);
  EXPECT_TRUE(b.ends_turn());
}

TEST(SampledTokenTest, HasAlternativesAsValidText) {
  SampledToken token = Sampled(0, 'b', false);
  token.logprob = -0.5f;
  token.top = {{'b', -0.5f}, {0xe2, -1.5f}};
  const TokenEvent event = MakeTokenEvent(token, ByteTokenizer());
  EXPECT_EQ(event.logprob, -0.5f);
  ASSERT_EQ(event.top.size(), 2);
  EXPECT_EQ(event.top[0].text, "b");
  EXPECT_EQ(event.top[1].text, "\xef\xbf\xbd");
  EXPECT_EQ(event.top[1].logprob, -1.5f);
}

}  // namespace
}  // namespace engram
