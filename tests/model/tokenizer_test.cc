#include "model/tokenizer.h"

#include <chrono>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/folders.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

std::string GoldenPath(const std::string& name) {
  return SourceFile(absl::StrCat("tests/golden/tokenizers/", name, ".json"));
}

std::string ReadGolden(const std::string& name) {
  std::ifstream file(GoldenPath(name), std::ios::binary);
  EXPECT_TRUE(file) << GoldenPath(name);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

const Json& Golden() {
  static const Json* const golden = new Json(Json::parse(ReadGolden("cases")));
  return *golden;
}

std::unique_ptr<Tokenizer> MakeTokenizer(const Json& content) {
  auto tokenizer = Tokenizer::Parse(content.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? std::move(tokenizer).value() : nullptr;
}

std::unique_ptr<Tokenizer> LoadGolden(const std::string& name) {
  auto tokenizer = Tokenizer::Load(GoldenPath(name));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? std::move(tokenizer).value() : nullptr;
}

absl::Status ParseStatus(const Json& content) {
  return Tokenizer::Parse(content.dump()).status();
}

// A tokenizer of the golden file: a file of its own, or another with a patch.
Json ContentOf(const std::string& name, const Json& cases) {
  if (!cases.contains("base")) return Json::parse(ReadGolden(name));
  Json content = Json::parse(ReadGolden(cases["base"].get<std::string>()));
  content.merge_patch(cases["patch"]);
  return content;
}

std::string Ids(const absl::StatusOr<std::vector<int32_t>>& ids) {
  return ids.ok() ? absl::StrJoin(*ids, " ") : "refused";
}

std::string ExpectedIds(const Json& ids) {
  if (ids.is_null()) return "refused";
  return absl::StrJoin(ids.get<std::vector<int32_t>>(), " ");
}

// The text that a stream of ids gives.
std::string TextOf(const Tokenizer& tokenizer,
                   const std::vector<int32_t>& ids) {
  TextDecoder decoder(&tokenizer);
  std::string text;
  for (int32_t id : ids) text += decoder.Append(id).text;
  return text + decoder.Flush();
}

// Compares one tokenizer with what Hugging Face's gave; counts its texts.
class GoldenComparison {
 public:
  GoldenComparison(std::string name, const Json& cases)
      : name_(std::move(name)),
        cases_(cases),
        tokenizer_(MakeTokenizer(ContentOf(name_, cases))) {}

  int Run() {
    if (tokenizer_ == nullptr) return 0;
    int count = 0;
    for (const Json& place : cases_["texts"]) {
      CompareText(place.get<int>(), cases_["ids"][count++]);
    }
    EXPECT_EQ(differences_, 0) << name_;
    return count;
  }

 private:
  void CompareText(int place, const Json& plain_ids) {
    const std::string text = Golden()["texts"][place];
    const std::string key = absl::StrCat(place);
    const Json& special_ids = cases_["with_special"].value(key, plain_ids);
    const auto with_special = tokenizer_->Encode(text, true);
    Compare(text, "ids", Ids(tokenizer_->Encode(text, false)),
            ExpectedIds(plain_ids));
    Compare(text, "ids with special tokens", Ids(with_special),
            ExpectedIds(special_ids));
    if (!with_special.ok()) return;
    Compare(text, "text", TextOf(*tokenizer_, *with_special),
            cases_["decoded"].value(key, text));
  }

  void Compare(const std::string& text, const char* what,
               const std::string& actual, const std::string& expected) {
    if (actual == expected || ++differences_ > 5) return;
    ADD_FAILURE() << name_ << ", " << what << " of " << Json(text).dump()
                  << "\n  are      " << actual << "\n  expected " << expected;
  }

  std::string name_;
  const Json& cases_;
  std::unique_ptr<Tokenizer> tokenizer_;
  int differences_ = 0;
};

TEST(Tokenizer, MatchesHuggingFaceOnHardStrings) {
  EXPECT_GE(Golden()["texts"].size(), 2000);
  int texts = 0;
  for (const char* name :
       {"gpt_neox_like", "gpt2_like", "plain_bytes", "symbols"}) {
    texts += GoldenComparison(name, Golden()["tokenizers"][name]).Run();
  }
  EXPECT_GE(texts, 4000);
}

TEST(Tokenizer, MatchesHuggingFaceWithOtherSettings) {
  int variants = 0;
  for (const auto& [name, cases] : Golden()["tokenizers"].items()) {
    if (!cases.contains("base")) continue;
    ++variants;
    EXPECT_GE(GoldenComparison(name, cases).Run(), 200);
  }
  EXPECT_EQ(variants, 7);
}

TEST(Tokenizer, DecodesAnyIdsAsHuggingFaceDoes) {
  const auto tokenizer = LoadGolden("gpt2_like");
  for (const Json& sample : Golden()["random_ids"]) {
    EXPECT_EQ(TextOf(*tokenizer, sample[0].get<std::vector<int32_t>>()),
              sample[1].get<std::string>())
        << sample.dump();
  }
}

std::string FromHexadecimal(const std::string& digits) {
  std::string bytes;
  for (size_t i = 0; i < digits.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

TEST(Tokenizer, RefusesBrokenUtf8WithTheOffset) {
  const auto tokenizer = LoadGolden("gpt_neox_like");
  for (const Json& sample : Golden()["broken"]) {
    const std::string text = FromHexadecimal(sample[0]);
    const absl::Status status = tokenizer->Encode(text, false).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(),
              absl::StrCat("text is not UTF-8 at byte ", sample[1].get<int>()));
  }
}

TEST(Tokenizer, GivesBackEveryByteOfNormalizedText) {
  const auto tokenizer = LoadGolden("gpt2_like");
  for (const Json& text : Golden()["texts"]) {
    const auto ids = tokenizer->Encode(text.get<std::string>(), true);
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(tokenizer->Decode(*ids), text.get<std::string>());
  }
}

TEST(Tokenizer, KnowsItsTokensByIdAndByContent) {
  const auto tokenizer = LoadGolden("gpt_neox_like");
  EXPECT_EQ(tokenizer->ids(), 1523);
  EXPECT_EQ(tokenizer->TokenToId("<|endoftext|>"), 0);
  EXPECT_EQ(tokenizer->TokenToId("<|padding|>"), 1);
  EXPECT_EQ(tokenizer->TokenToId("  "), 1522);
  EXPECT_EQ(tokenizer->TokenToId("no such token"), -1);
  EXPECT_TRUE(tokenizer->IsSpecial(0));
  EXPECT_FALSE(tokenizer->IsSpecial(1522));
  EXPECT_FALSE(tokenizer->Knows(1523));
  EXPECT_FALSE(tokenizer->Knows(-1));
  EXPECT_EQ(tokenizer->Bytes(0, true), "<|endoftext|>");
  EXPECT_EQ(tokenizer->Bytes(1522, false), "  ");
  EXPECT_EQ(tokenizer->Bytes(1523, false), "");
  EXPECT_EQ(tokenizer->Bytes(-1, false), "");
}

TEST(Tokenizer, LeavesGapsInTheVocabularyUnknown) {
  Json content = Json::parse(ReadGolden("symbols"));
  content["model"]["vocab"]["late"] = 99;
  const auto tokenizer = MakeTokenizer(content);
  EXPECT_EQ(tokenizer->ids(), 100);
  EXPECT_TRUE(tokenizer->Knows(99));
  EXPECT_FALSE(tokenizer->Knows(98));
  EXPECT_EQ(tokenizer->Bytes(98, false), "");
}

TEST(Tokenizer, SeparatesWordLevelTokensBySpaces) {
  const auto tokenizer = LoadGolden("symbols");
  const auto ids = tokenizer->Encode(" a  b\nc", false);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(tokenizer->Decode(*ids), "a b c");
}

TEST(Tokenizer, NamesAWordThatTheVocabularyLacks) {
  const auto tokenizer = LoadGolden("symbols");
  const absl::Status status = tokenizer->Encode("a Übung b", false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "the vocabulary has no word \"Übung\"");
}

TEST(Tokenizer, ReplacesUnknownWordsIfTheFileNamesATokenForThem) {
  Json content = Json::parse(ReadGolden("symbols"));
  content["model"]["unk_token"] = "<noise>";
  const auto tokenizer = MakeTokenizer(content);
  EXPECT_THAT(
      *tokenizer->Encode("a zebra b", false),
      ElementsAre(tokenizer->TokenToId("a"), tokenizer->TokenToId("<noise>"),
                  tokenizer->TokenToId("b")));
}

TEST(Tokenizer, RefusesABadByteThatTheVocabularyLacks) {
  Json content = Json::parse(ReadGolden("plain_bytes"));
  content["model"]["vocab"].erase("a");
  const absl::Status status =
      MakeTokenizer(content)->Encode("bab", false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("0x61"));
}

// A quadratic algorithm would need minutes for any of these.
TEST(Tokenizer, TakesLinearTimeForLongRuns) {
  const auto tokenizer = LoadGolden("gpt_neox_like");
  constexpr int kBytes = 1 << 20;
  for (const char* unit :
       {" ", "a", "\n", "1", "!", "the", "the ", "\u00a0", " \n", "中",
        "\u0301\u0316", "<|endoftext", "<|endoftext|>", "'s", "\u1100"}) {
    std::string text;
    while (text.size() < kBytes) text += unit;
    const auto start = std::chrono::steady_clock::now();
    const auto ids = tokenizer->Encode(text, false);
    const std::chrono::duration<double> seconds =
        std::chrono::steady_clock::now() - start;
    ASSERT_TRUE(ids.ok()) << unit << ": " << ids.status();
    EXPECT_LT(seconds.count(), 30) << unit;
  }
}

TEST(Tokenizer, TakesLinearTimeForMarksInTheWrongOrder) {
  const auto tokenizer = LoadGolden("gpt_neox_like");
  std::string text = "a";
  for (int i = 0; i < 200000; ++i) text += "\u0301";
  for (int i = 0; i < 200000; ++i) text += "\u0316";
  const auto ids = tokenizer->Encode(text, false);
  ASSERT_TRUE(ids.ok());
  EXPECT_THAT(tokenizer->Decode(*ids), testing::StartsWith("á\u0316\u0316"));
}

TEST(Tokenizer, GivesTheSameIdsOnManyThreads) {
  const auto tokenizer = LoadGolden("gpt_neox_like");
  const std::string text = Golden()["texts"][5].get<std::string>();
  const std::string expected = Ids(tokenizer->Encode(text, false));
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        EXPECT_EQ(Ids(tokenizer->Encode(text, false)), expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Tokenizer, SaysThatThereIsNoFile) {
  EXPECT_EQ(Tokenizer::Load("/no/such/tokenizer.json").status().code(),
            absl::StatusCode::kNotFound);
}

// One change to a good file, and what Parse() must say of it.
struct Damage {
  const char* base;
  const char* place;  // JSON pointer
  Json value;
  absl::StatusCode code;
  const char* message;
};

std::vector<Damage> Damages() {
  constexpr auto kDamaged = absl::StatusCode::kDataLoss;
  constexpr auto kUnknown = absl::StatusCode::kUnimplemented;
  const Json token = {{"id", 5},
                      {"content", "x"},
                      {"special", true},
                      {"lstrip", false},
                      {"rstrip", false},
                      {"normalized", true},
                      {"single_word", false}};
  const Json prefixed = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  return {
      {"gpt2_like", "", 1, kDamaged, "not an object"},
      {"gpt2_like", "/model", nullptr, kDamaged, "model is not an object"},
      {"gpt2_like", "/model/vocab", 7, kDamaged, "model.vocab"},
      {"gpt2_like", "/model/vocab/a", -1, kDamaged, "model.vocab[\"a\"]"},
      {"gpt2_like", "/model/vocab/a", 1.5, kDamaged, "model.vocab[\"a\"]"},
      {"gpt2_like", "/model/vocab/a", 1 << 20, kDamaged, "limit 1048575"},
      {"gpt2_like", "/model/vocab/new", 3, kDamaged, "id 3 is both"},
      {"gpt2_like", "/model/merges/7", "ab", kDamaged, "model.merges[7]"},
      {"gpt2_like", "/model/merges/7", "a b c", kDamaged, "model.merges[7]"},
      {"gpt2_like", "/model/merges/7", {"a"}, kDamaged, "model.merges[7]"},
      {"gpt2_like", "/model/merges/7", "a qqq", kDamaged, "\"qqq\""},
      {"gpt2_like", "/model/merges/7", "q q", kDamaged, "\"qq\""},
      {"gpt2_like", "/model/dropout", 0.1, kUnknown, "model.dropout"},
      {"gpt2_like", "/model/dropout", "0", kDamaged, "model.dropout"},
      {"gpt2_like", "/model/byte_fallback", true, kUnknown, "byte_fallback"},
      {"gpt2_like", "/model/byte_fallback", 1, kDamaged, "byte_fallback"},
      {"gpt2_like", "/model/end_of_word_suffix", "</w>", kUnknown,
       "model.end_of_word_suffix"},
      {"gpt2_like", "/model/continuing_subword_prefix", "##", kUnknown,
       "model.continuing_subword_prefix"},
      {"gpt2_like", "/model/new_setting", 1, kUnknown, "model.new_setting"},
      {"gpt2_like", "/model/type", "Unigram", kUnknown, "Unigram"},
      {"symbols", "/model/type", nullptr, kDamaged, "model.type"},
      {"gpt2_like", "/new_part", 1, kUnknown, "new_part"},
      {"gpt2_like", "/normalizer", {{"type", "NFKC"}}, kUnknown, "NFKC"},
      {"gpt2_like",
       "/normalizer",
       {{"kind", "NFC"}},
       kDamaged,
       "normalizer.type is missing"},
      {"gpt2_like", "/pre_tokenizer", nullptr, kUnknown, "pre_tokenizer"},
      {"gpt2_like", "/pre_tokenizer/type", "Metaspace", kUnknown, "Metaspace"},
      {"gpt2_like", "/pre_tokenizer/type", "WhitespaceSplit", kUnknown,
       "WhitespaceSplit"},
      {"gpt2_like", "/pre_tokenizer/use_regex", "yes", kDamaged, "use_regex"},
      {"symbols", "/pre_tokenizer/type", "Whitespace", kUnknown, "Whitespace"},
      {"symbols", "/decoder", {{"type", "WordPiece"}}, kUnknown, "WordPiece"},
      {"gpt2_like", "/decoder/type", "BPEDecoder", kUnknown, "BPEDecoder"},
      {"gpt2_like", "/post_processor/type", "BertProcessing", kUnknown,
       "BertProcessing"},
      {"gpt2_like",
       "/post_processor",
       {{"type", "TemplateProcessing"}, {"single", {prefixed}}},
       kUnknown,
       "post_processor.single with 0 texts"},
      {"gpt2_like", "/added_tokens", 1, kDamaged, "added_tokens"},
      {"gpt2_like", "/added_tokens/0/id", "1400", kDamaged,
       "added_tokens[0].id"},
      {"gpt2_like", "/added_tokens/0/id", 5, kDamaged, "id 5 is both"},
      {"gpt2_like", "/added_tokens/0/content", "", kDamaged,
       "added_tokens[0] has no content"},
      {"gpt2_like", "/added_tokens/0/content", "Ġ", kDamaged, "has ids"},
      {"gpt2_like", "/added_tokens/0/special", nullptr, kDamaged,
       "added_tokens[0].special"},
      {"symbols", "/added_tokens", {token}, kDamaged, "id 5 is both"},
  };
}

TEST(Tokenizer, SaysWhatItDoesNotUnderstandAndWhere) {
  for (const Damage& damage : Damages()) {
    Json content = Json::parse(ReadGolden(damage.base));
    content[Json::json_pointer(damage.place)] = damage.value;
    const absl::Status status = ParseStatus(content);
    EXPECT_EQ(status.code(), damage.code) << damage.place << ": " << status;
    EXPECT_THAT(status.message(), HasSubstr(damage.message)) << damage.place;
  }
}

// What a training script leaves behind, and what adds special tokens that are
// never added here.
TEST(Tokenizer, PassesOverWhatDoesNotChangeTheIdsOfATextWithAWarning) {
  const std::string text = "they've 1,000 words\n and more of them";
  const Json plain = Json::parse(ReadGolden("gpt2_like"));
  EXPECT_THAT(MakeTokenizer(plain)->warnings(), IsEmpty());
  const std::string ids = Ids(MakeTokenizer(plain)->Encode(text, false));
  const Json prefix = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  const Json sequence = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const std::vector<std::pair<std::string, Json>> settings = {
      {"truncation",
       {{"direction", "Right"}, {"max_length", 2}, {"stride", 0}}},
      {"padding", {{"strategy", {{"Fixed", 64}}}, {"pad_id", 5}}},
      {"post_processor",
       {{"type", "TemplateProcessing"}, {"single", {prefix, sequence}}}}};
  for (const auto& [name, value] : settings) {
    Json content = plain;
    content[name] = value;
    const auto tokenizer = MakeTokenizer(content);
    ASSERT_NE(tokenizer, nullptr);
    EXPECT_EQ(Ids(tokenizer->Encode(text, false)), ids) << name;
    EXPECT_THAT(tokenizer->warnings(), ElementsAre(HasSubstr(name)));
  }
}

TEST(Tokenizer, SaysWhatIsMissing) {
  for (const char* part : {"model", "pre_tokenizer"}) {
    Json content = Json::parse(ReadGolden("gpt2_like"));
    content.erase(part);
    EXPECT_THAT(ParseStatus(content).message(), HasSubstr(part));
  }
  for (const char* part : {"vocab", "merges"}) {
    Json content = Json::parse(ReadGolden("gpt_neox_like"));
    content["model"].erase(part);
    EXPECT_EQ(ParseStatus(content).code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(ParseStatus(content).message(),
                HasSubstr(absl::StrCat("model.", part, " is missing")));
  }
}

TEST(Tokenizer, AllowsAnUnknownTokenOnlyWhereItCannotOccur) {
  Json content = Json::parse(ReadGolden("gpt_neox_like"));
  content["model"]["unk_token"] = "<|endoftext|>";
  EXPECT_TRUE(ParseStatus(content).ok());
  content = Json::parse(ReadGolden("plain_bytes"));
  content["model"]["unk_token"] = "b";
  content["model"]["vocab"].erase("a");
  EXPECT_EQ(ParseStatus(content).code(), absl::StatusCode::kUnimplemented);
}

TEST(Tokenizer, RefusesWhatIsNotJson) {
  for (std::string text :
       {std::string(), std::string("{"), std::string("\0", 1),
        std::string(1 << 20, '['), std::string("\"\xFF\"")}) {
    EXPECT_EQ(Tokenizer::Parse(text).status().code(),
              absl::StatusCode::kDataLoss);
  }
}

// A short file, so that a change hits something that matters.
std::string SmallFile() {
  Json content = Json::parse(ReadGolden("gpt_neox_like"));
  Json& model = content["model"];
  model["vocab"] = {{"<|endoftext|>", 0},
                    {"a", 1},
                    {"b", 2},
                    {"Ġ", 3},
                    {"ab", 4},
                    {"Ġa", 5},
                    {"c", 6}};
  model["merges"] = Json::parse(R"([["a", "b"], ["Ġ", "a"]])");
  Json tokens = Json::array();
  for (const Json& token : content["added_tokens"]) {
    if (token["id"] == 0 || token["id"] > 1520) tokens.push_back(token);
  }
  content["added_tokens"] = tokens;
  return content.dump();
}

// Replaces, removes, doubles or inserts some bytes.
std::string Mutate(std::string text, std::mt19937* random) {
  const auto below = [random](size_t limit) { return (*random)() % limit; };
  static constexpr std::string_view kPieces[] = {
      "\"",       "{",       "}",    "[",     "]",
      ",",        ":",       "0",    "-",     "null",
      "true",     "\\u0000", "\xFF", "1e999", "99999999999999999999",
      "\"a\":1,", "\\ud800", "é"};
  for (size_t change = below(3) + 1; change > 0; --change) {
    const size_t place = below(text.size());
    const size_t length = below(8);
    switch (below(4)) {
      case 0:
        text[place] = static_cast<char>(below(256));
        break;
      case 1:
        text.erase(place, length);
        break;
      case 2:
        text.insert(place, text.substr(below(text.size()), 4 * length));
        break;
      default:
        text.replace(place, length, kPieces[below(std::size(kPieces))]);
    }
  }
  return text;
}

TEST(Tokenizer, SurvivesDamagedFiles) {
  const std::string good = SmallFile();
  ASSERT_TRUE(Tokenizer::Parse(good).ok()) << Tokenizer::Parse(good).status();
  std::mt19937 random(7);
  int accepted = 0;
  for (int i = 0; i < 10000; ++i) {
    const auto tokenizer = Tokenizer::Parse(Mutate(good, &random));
    if (tokenizer.ok()) {
      ++accepted;
      const auto ids = (*tokenizer)->Encode("ab  abc <|endoftext|>", true);
      if (ids.ok()) (*tokenizer)->Decode(*ids);
      continue;
    }
    EXPECT_THAT(tokenizer.status().code(),
                testing::AnyOf(absl::StatusCode::kDataLoss,
                               absl::StatusCode::kUnimplemented));
  }
  EXPECT_GT(accepted, 100);
}

TEST(Tokenizer, EncodesNothingAsNothing) {
  const auto ids = LoadGolden("gpt_neox_like")->Encode("", true);
  ASSERT_TRUE(ids.ok());
  EXPECT_THAT(*ids, IsEmpty());
}

}  // namespace
}  // namespace engram
