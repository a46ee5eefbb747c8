#include "model/unicode.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "model/normalization.h"
#include "model/word_splitter.h"
#include "tests/support/folders.h"

namespace engram {
namespace {

using Json = nlohmann::json;

// What Hugging Face's `tokenizers` make of every character.
const Json& Golden() {
  static const Json* const golden = [] {
    const std::string path = SourceFile("tests/golden/tokenizers/unicode.json");
    std::ifstream file(path, std::ios::binary);
    EXPECT_TRUE(file) << path;
    return new Json(Json::parse(file));
  }();
  return *golden;
}

bool IsSurrogate(char32_t character) {
  return character >= 0xD800 && character < 0xE000;
}

std::string Utf8(char32_t character) {
  std::string text;
  AppendUtf8(character, &text);
  return text;
}

// Calls `check(character, value)` for every character, with its value in the
// runs [first, value] of the golden file; how often that was.
template <typename Check>
int ForEveryCharacter(const Json& runs, const Check& check) {
  int count = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    const char32_t end =
        i + 1 < runs.size() ? runs[i + 1][0].get<char32_t>() : 0x110000;
    for (auto c = runs[i][0].get<char32_t>(); c < end; ++c) {
      if (IsSurrogate(c)) continue;
      check(c, runs[i][1]);
      ++count;
    }
  }
  return count;
}

constexpr int kCharacters = 0x110000 - 0x800;

std::string KindName(char32_t character) {
  if (IsLetter(character)) return "letter";
  if (IsNumber(character)) return "number";
  return IsWhiteSpace(character) ? "space" : "other";
}

TEST(Unicode, HasTheKindThatHuggingFaceGivesToEveryCharacter) {
  int differences = 0;
  const int checked = ForEveryCharacter(
      Golden()["splitter"], [&](char32_t c, const Json& kind) {
        if (KindName(c) == kind || ++differences > 10) return;
        ADD_FAILURE() << absl::StrFormat("U+%04X is a %s, expected ", c,
                                         KindName(c))
                      << kind;
      });
  EXPECT_EQ(checked, kCharacters);
  EXPECT_EQ(differences, 0);
}

TEST(Unicode, JoinsEveryCharacterToWordsAsHuggingFaceDoes) {
  int differences = 0;
  const int checked =
      ForEveryCharacter(Golden()["word"], [&](char32_t c, const Json& is_word) {
        if (StartsWithWord(Utf8(c)) == is_word.get<bool>() &&
            EndsWithWord(Utf8(c)) == is_word.get<bool>()) {
          return;
        }
        if (++differences > 10) return;
        ADD_FAILURE() << absl::StrFormat("U+%04X, expected ", c) << is_word;
      });
  EXPECT_EQ(checked, kCharacters);
  EXPECT_EQ(differences, 0);
}

TEST(Unicode, WritesAndReadsEveryCharacter) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (IsSurrogate(c)) continue;
    const std::string text = Utf8(c);
    ASSERT_EQ(StartOfUtf8(text).kind, Utf8Start::kCharacter) << uint32_t{c};
    ASSERT_EQ(StartOfUtf8(text).length, text.size()) << uint32_t{c};
    ASSERT_EQ(FirstCharacter(text), c);
  }
}

TEST(WordSplitter, CutsLettersThatUnicodeHasSinceVersion15AsHuggingFaceDoes) {
  for (const char32_t letter : {0x5B57, 0x31350, 0x2EBF0, 0x1E030}) {
    const std::string text = Utf8(letter) + "'re" + Utf8(letter);
    WordSplitter words(text);
    EXPECT_EQ(words.Next(), Utf8(letter));
    EXPECT_EQ(words.Next(), "'re");
    EXPECT_EQ(words.Next(), Utf8(letter));
    EXPECT_EQ(words.Next(), "");
  }
}

TEST(Normalization, GivesHuggingFacesFormCOfEveryCharacter) {
  std::vector<std::string> expected(0x110000);
  for (const Json& entry : Golden()["nfc"]) {
    const auto character = entry[0].get<std::string>();
    expected[FirstCharacter(character)] = entry[1].get<std::string>();
  }
  int differences = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (IsSurrogate(c)) continue;
    const std::string itself = Utf8(c);
    const std::string& normalized = expected[c].empty() ? itself : expected[c];
    if (ToNfc(itself) == normalized || ++differences > 10) continue;
    ADD_FAILURE() << absl::StrFormat("U+%04X", c);
  }
  EXPECT_EQ(differences, 0);
  EXPECT_GE(Golden()["nfc"].size(), 1000);
}

TEST(Normalization, GivesHuggingFacesFormCOfMarksInAnyOrder) {
  int differences = 0;
  for (const Json& entry : Golden()["nfc_texts"]) {
    const auto text = entry[0].get<std::string>();
    if (ToNfc(text) == entry[1].get<std::string>()) continue;
    if (++differences <= 10) ADD_FAILURE() << entry.dump(-1, ' ', true);
  }
  EXPECT_EQ(differences, 0);
  EXPECT_GE(Golden()["nfc_texts"].size(), 4000);
}

}  // namespace
}  // namespace engram
