#include "clients/cpp/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class FlagSetTest : public ::testing::Test {
 protected:
  FlagSetTest() {
    flags_.Add("model", "NAME", "A model.", &model_);
    flags_.Add("max-tokens", "N", "A count.", &max_tokens_);
    flags_.Add("seed", "N", "A seed.", &seed_);
    flags_.Add("temperature", "T", "A number.", &temperature_);
    flags_.Add("deadline", "DURATION", "A time.", &deadline_);
    flags_.Add("stop", "TEXT", "Texts.", &stops_);
    flags_.Add("prompt", "TEXT", "A text or none.", &prompt_);
    flags_.AddSwitch("json", "A switch.", &json_);
  }

  std::string Error(std::vector<std::string> arguments) {
    return std::string(flags_.Parse(arguments).status().message());
  }

  FlagSet flags_;
  std::string model_;
  int32_t max_tokens_ = 7;
  std::optional<int64_t> seed_;
  float temperature_ = 0;
  absl::Duration deadline_;
  std::vector<std::string> stops_;
  std::optional<std::string> prompt_;
  bool json_ = false;
};

TEST_F(FlagSetTest, ReadsBothWaysOfWriting) {
  const auto others =
      flags_.Parse({"get", "--model", "m", "--max-tokens=12", "--json", "id",
                    "--seed", "-9223372036854775808", "--temperature=0.5"});
  ASSERT_TRUE(others.ok()) << others.status();
  EXPECT_THAT(*others, ElementsAre("get", "id"));
  EXPECT_EQ(model_, "m");
  EXPECT_EQ(max_tokens_, 12);
  EXPECT_TRUE(json_);
  EXPECT_EQ(seed_, std::numeric_limits<int64_t>::min());
  EXPECT_EQ(temperature_, 0.5f);
}

TEST_F(FlagSetTest, LeavesWhatIsNotGiven) {
  ASSERT_TRUE(flags_.Parse({}).ok());
  EXPECT_EQ(max_tokens_, 7);
  EXPECT_FALSE(seed_.has_value());
  EXPECT_FALSE(prompt_.has_value());
  EXPECT_FALSE(json_);
}

TEST_F(FlagSetTest, KeepsValuesAsTheyAre) {
  ASSERT_TRUE(flags_
                  .Parse({"--prompt=", "--stop", "a=b", "--stop=--json",
                          "--stop", "--no flag", "--model", "-"})
                  .ok());
  EXPECT_EQ(prompt_, "");
  EXPECT_THAT(stops_, ElementsAre("a=b", "--json", "--no flag"));
  EXPECT_EQ(model_, "-");
}

TEST_F(FlagSetTest, SwitchesCanBeTakenBack) {
  ASSERT_TRUE(flags_.Parse({"--json", "--json=false"}).ok());
  EXPECT_FALSE(json_);
  EXPECT_THAT(Error({"--json=perhaps"}), HasSubstr("--json"));
}

TEST_F(FlagSetTest, TwoDashesEndTheFlags) {
  const auto others = flags_.Parse({"--json", "--", "--model", "x"});
  ASSERT_TRUE(others.ok());
  EXPECT_THAT(*others, ElementsAre("--model", "x"));
  EXPECT_EQ(model_, "");
}

TEST_F(FlagSetTest, SuggestsWhatWasMeant) {
  EXPECT_EQ(Error({"--modle", "m"}),
            "unknown flag --modle; did you mean --model?");
  EXPECT_EQ(Error({"--temp=1"}),
            "unknown flag --temp; did you mean --temperature?");
  EXPECT_EQ(Error({"--whatever"}), "unknown flag --whatever");
}

TEST_F(FlagSetTest, RefusesMissingAndWrongValues) {
  EXPECT_EQ(Error({"--model"}), "flag --model needs a value: --model NAME");
  EXPECT_EQ(Error({"--model", "--json"}),
            "flag --model needs a value: --model NAME");
  EXPECT_EQ(Error({"--max-tokens", "many"}),
            "flag --max-tokens: 'many' is not a whole number");
  EXPECT_THAT(Error({"--max-tokens", "2147483648"}), HasSubstr("whole"));
  EXPECT_THAT(Error({"--temperature", "nan"}), HasSubstr("not a number"));
  EXPECT_THAT(Error({"--deadline", "soon"}), HasSubstr("not a duration"));
  EXPECT_THAT(Error({"--deadline=-1s"}), HasSubstr("not a duration"));
}

TEST_F(FlagSetTest, ReadsDurations) {
  ASSERT_TRUE(flags_.Parse({"--deadline", "1500ms"}).ok());
  EXPECT_EQ(deadline_, absl::Milliseconds(1500));
  ASSERT_TRUE(flags_.Parse({"--deadline", "2.5"}).ok());
  EXPECT_EQ(deadline_, absl::Milliseconds(2500));
}

TEST_F(FlagSetTest, LeadingFlagsEndAtTheVerb) {
  const auto count =
      flags_.ParseLeading({"--model", "m", "--json", "generate", "--unknown"});
  ASSERT_TRUE(count.ok()) << count.status();
  EXPECT_EQ(*count, 3u);
}

TEST_F(FlagSetTest, HelpNamesEveryFlag) {
  const std::string help = flags_.Help();
  EXPECT_THAT(help, HasSubstr("  --max-tokens N              A count.\n"));
  EXPECT_THAT(help, HasSubstr("  --json                      A switch.\n"));
}

TEST(ParseTokenIds, ReadsListsAndRefusesAnythingElse) {
  EXPECT_THAT(*ParseTokenIds("1,2,3"), ElementsAre(1, 2, 3));
  EXPECT_THAT(*ParseTokenIds("1, 2"), ElementsAre(1, 2));
  EXPECT_THAT(*ParseTokenIds(""), IsEmpty());
  EXPECT_FALSE(ParseTokenIds("1,,2").ok());
  EXPECT_FALSE(ParseTokenIds("-1").ok());
  EXPECT_FALSE(ParseTokenIds("x").ok());
}

TEST(Unescape, ResolvesEscapes) {
  EXPECT_EQ(*Unescape("a\\nb\\t\\\\"), "a\nb\t\\");
  EXPECT_EQ(*Unescape("plain"), "plain");
  EXPECT_FALSE(Unescape("\\q").ok());
  EXPECT_FALSE(Unescape("end\\").ok());
  EXPECT_EQ(*Unescape("\\xc3\\xa9"), "\xc3\xa9");
  EXPECT_EQ(Unescape("a\\xff").status().message(),
            "byte 2 (0xff) is not UTF-8");
}

TEST(FlagSet, TakesTokenIdsAndEscapedTextsOnceOrAgainAndAgain) {
  FlagSet flags;
  std::optional<std::vector<int32_t>> last;
  std::vector<int32_t> all;
  std::string text;
  std::vector<std::string> texts;
  flags.AddTokenIds("last", "IDS", "Ids.", &last);
  flags.AddTokenIds("all", "IDS", "Ids.", &all);
  flags.AddEscaped("text", "TEXT", "A text.", &text);
  flags.AddEscaped("texts", "TEXT", "Texts.", &texts);
  EXPECT_TRUE(flags.Parse({}).ok());
  EXPECT_FALSE(last.has_value());
  const std::vector<std::string> arguments = {
      "--last=1,2", "--last=3",   "--all=1,2",     "--all=3",
      "--text=\\t", "--text=\\n", "--texts=\\x41", "--texts=,"};
  ASSERT_TRUE(flags.Parse(arguments).ok());
  EXPECT_EQ(last, std::vector<int32_t>{3});
  EXPECT_THAT(all, ElementsAre(1, 2, 3));
  EXPECT_EQ(text, "\n");
  EXPECT_THAT(texts, ElementsAre("A", ","));
  EXPECT_TRUE(flags.Parse({std::string("--last=")}).ok());
  EXPECT_THAT(*last, IsEmpty());
  EXPECT_THAT(
      std::string(flags.Parse({std::string("--all=x")}).status().message()),
      HasSubstr("flag --all: "));
  EXPECT_THAT(
      std::string(flags.Parse({std::string("--text=\\q")}).status().message()),
      HasSubstr("flag --text: "));
}

TEST(TlsFlags, EachOfThemMeansTlsUnlessItIsSaidOtherwise) {
  const auto uses = [](std::vector<std::string> arguments) {
    TlsOptions tls;
    FlagSet flags;
    flags.AddTls(&tls);
    EXPECT_TRUE(flags.Parse(arguments).ok());
    return UsesTls(tls);
  };
  EXPECT_FALSE(uses({}));
  EXPECT_TRUE(uses({"--tls"}));
  EXPECT_TRUE(uses({"--ca", "file"}));
  EXPECT_TRUE(uses({"--certificate", "file", "--key", "file"}));
  EXPECT_TRUE(uses({"--server-name", "name"}));
  EXPECT_FALSE(uses({"--tls=false"}));
  EXPECT_FALSE(uses({"--ca", "file", "--tls=false"}));
}

}  // namespace
}  // namespace engram::client
