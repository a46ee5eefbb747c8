#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer.h"
#include "tests/support/folders.h"

namespace engram {
namespace {

using Json = nlohmann::json;

// Each id stands for some bytes.
class ListedTokenizer : public Tokenizer {
 public:
  explicit ListedTokenizer(std::vector<std::string> tokens)
      : tokens_(std::move(tokens)) {}

  int64_t ids() const override { return static_cast<int64_t>(tokens_.size()); }
  bool Knows(int32_t id) const override { return id >= 0 && id < ids(); }
  bool IsSpecial(int32_t) const override { return false; }
  int32_t TokenToId(std::string_view) const override { return -1; }
  std::string Bytes(int32_t id, bool first) const override {
    if (!Knows(id)) return "";
    return (first ? "" : separator_) + tokens_[id];
  }
  void set_separator(std::string separator) {
    separator_ = std::move(separator);
  }

 private:
  absl::StatusOr<std::vector<int32_t>> EncodeChecked(
      std::string_view, bool, WorkCheck*) const override {
    return absl::UnimplementedError("not needed");
  }

  std::vector<std::string> tokens_;
  std::string separator_;
};

// The text of `parts` with one id each.
std::string Decode(const std::vector<std::string>& parts) {
  const ListedTokenizer tokenizer(parts);
  TextDecoder decoder(&tokenizer);
  std::string text;
  std::string bytes;
  for (size_t id = 0; id < parts.size(); ++id) {
    const TextDecoder::Piece piece = decoder.Append(static_cast<int32_t>(id));
    text += piece.text;
    bytes += piece.bytes;
  }
  std::string all;
  for (const std::string& part : parts) all += part;
  EXPECT_EQ(bytes, all);
  return text + decoder.Flush();
}

std::vector<std::string> SplitAtRandom(const std::string& bytes,
                                       std::mt19937* random) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < bytes.size(); begin += parts.back().size()) {
    parts.push_back(bytes.substr(begin, (*random)() % 4));
    if (parts.back().empty()) parts.push_back(bytes.substr(begin, 1));
  }
  return parts;
}

TEST(TextDecoder, HoldsBackUntilACharacterIsWhole) {
  const ListedTokenizer tokenizer({"\xF0\x9F", "\x91", "\x8D!", "a"});
  TextDecoder decoder(&tokenizer);
  EXPECT_EQ(decoder.Append(3).text, "a");
  EXPECT_EQ(decoder.Append(0).text, "");
  EXPECT_EQ(decoder.Append(1).text, "");
  const TextDecoder::Piece piece = decoder.Append(2);
  EXPECT_EQ(piece.text, "👍!");
  EXPECT_EQ(piece.bytes, "\x8D!");
  EXPECT_EQ(decoder.Flush(), "");
}

TEST(TextDecoder, ReplacesWhatIsCutShortAtTheEnd) {
  EXPECT_EQ(Decode({"a", "\xF0\x9F\x91"}), "a\uFFFD");
  EXPECT_EQ(Decode({"\xE4", "\xB8"}), "\uFFFD");
}

TEST(TextDecoder, GivesNothingMoreAfterFlush) {
  const ListedTokenizer tokenizer({"\xE4"});
  TextDecoder decoder(&tokenizer);
  decoder.Append(0);
  EXPECT_EQ(decoder.Flush(), "\uFFFD");
  EXPECT_EQ(decoder.Flush(), "");
}

TEST(TextDecoder, ReplacesBrokenBytesAsSoonAsTheyAreKnownToBe) {
  const ListedTokenizer tokenizer({"\xE4\xB8", "a", "\xFF"});
  TextDecoder decoder(&tokenizer);
  EXPECT_EQ(decoder.Append(2).text, "\uFFFD");
  EXPECT_EQ(decoder.Append(0).text, "");
  EXPECT_EQ(decoder.Append(1).text, "\uFFFDa");
}

TEST(TextDecoder, TellsTheTokenizerWhichIdIsFirst) {
  ListedTokenizer tokenizer({"a", "b"});
  tokenizer.set_separator(" ");
  TextDecoder decoder(&tokenizer);
  EXPECT_EQ(decoder.Append(0).text, "a");
  EXPECT_EQ(decoder.Append(1).text, " b");
}

TEST(TextDecoder, IgnoresUnknownIds) {
  const ListedTokenizer tokenizer({"\xC3", "\xA9"});
  TextDecoder decoder(&tokenizer);
  decoder.Append(0);
  EXPECT_EQ(decoder.Append(77).text, "");
  EXPECT_EQ(decoder.Append(1).text, "é");
}

TEST(TextDecoder, ReplacesAsPythonDoesHoweverTheBytesAreSplit) {
  std::ifstream file(SourceFile("tests/golden/tokenizers/cases.json"));
  const Json golden = Json::parse(file);
  std::mt19937 random(8);
  for (const Json& sample : golden["broken"]) {
    const std::string digits = sample[0];
    std::string bytes;
    for (size_t i = 0; i < digits.size(); i += 2) {
      bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
    }
    for (int split = 0; split < 5; ++split) {
      EXPECT_EQ(Decode(SplitAtRandom(bytes, &random)),
                sample[2].get<std::string>())
          << digits;
    }
  }
}

}  // namespace
}  // namespace engram
