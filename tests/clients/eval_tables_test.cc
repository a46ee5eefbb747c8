#include "clients/cpp/eval_tables.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"

namespace engram::client {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

const std::vector<std::string> kZoo = {
    "attention-induction", "attention-induction-t256", "attention-recall",
    "h3-induction",        "h3-induction-t256",        "h3-recall",
    "mamba-induction",     "mamba-induction-t256",     "mamba-induction-v20",
    "mamba-recall",        "mamba2-induction",         "s4d-induction",
    "s4d-recall"};

// Three of four right; a session that grows if the model is "attention".
absl::StatusOr<EvalResult> ThreeOfFour(const Evaluation& evaluation) {
  EvalResult result;
  result.count = evaluation.count;
  result.right = evaluation.count * 3 / 4;
  result.state_bytes = 1000;
  if (evaluation.model == "attention-induction-t256") {
    result.state_bytes *= evaluation.settings.length;
  }
  return result;
}

// The cells of the line that begins with `first`.
std::vector<std::string> Row(absl::string_view text, absl::string_view first) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    std::vector<std::string> cells;
    for (absl::string_view cell : absl::StrSplit(line, '|')) {
      cells.emplace_back(absl::StripAsciiWhitespace(cell));
    }
    if (cells.size() > 2 && cells[1] == first) {
      return {cells.begin() + 1, cells.end() - 1};
    }
  }
  ADD_FAILURE() << "no row " << first << " in\n" << text;
  return {};
}

TEST(PaperTables, TheH3PapersTableStandsBesideThePapersNumbers) {
  std::map<std::string, Evaluation> asked;
  const auto text =
      MakePaperTable(PaperTable::kH3Paper, {}, kZoo, [&](const Evaluation& e) {
        asked[e.model] = e;
        return ThreeOfFour(e);
      });
  ASSERT_TRUE(text.ok()) << text.status();
  const std::string cell = "75.0 (72.2 to 77.6)";
  EXPECT_THAT(Row(*text, "accuracy, %"),
              ElementsAre("accuracy, %", "", "chance", "S4D", "H3", "attention",
                          "Mamba", "Mamba-2"));
  EXPECT_THAT(Row(*text, "induction head, 20 symbols, length 30"),
              ElementsAre("induction head, 20 symbols, length 30", "here",
                          "5.6", cell, cell, cell, cell, cell));
  EXPECT_THAT(Row(*text, "associative recall, 10 symbols, length 20"),
              ElementsAre("associative recall, 10 symbols, length 20", "here",
                          "25.0", cell, cell, cell, cell, "-"));
  EXPECT_THAT(Row(*text, ""), ElementsAre("", "H3 paper", "5.0", "35.6",
                                          "100.0", "100.0", "-", "-"));
  EXPECT_THAT(*text, HasSubstr("86.0"));
  EXPECT_THAT(*text, Not(HasSubstr("ot served")));
  ASSERT_THAT(asked, SizeIs(9));
  EXPECT_EQ(asked["mamba-induction-v20"].settings.vocabulary, 20);
  EXPECT_EQ(asked["s4d-recall"].settings.task, EvalTask::kAssociativeRecall);
  EXPECT_EQ(asked["s4d-recall"].count, 1000);
}

TEST(PaperTables, AModelThatIsNotServedIsADashAndANote) {
  const auto text =
      MakePaperTable(PaperTable::kH3Paper, {}, {"h3-recall"}, ThreeOfFour);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(Row(*text, "associative recall, 10 symbols, length 20"),
              ElementsAre("associative recall, 10 symbols, length 20", "here",
                          "25.0", "-", "75.0 (72.2 to 77.6)", "-", "-", "-"));
  EXPECT_THAT(
      *text,
      HasSubstr("Not served: `s4d-induction`, `h3-induction`, `attention-"
                "induction`, `mamba-induction-v20`, `mamba2-induction`, "
                "`s4d-recall`, `attention-recall`, `mamba-recall`."));
}

TEST(PaperTables, TheMambaPapersTableAsksThroughSessionsAtEveryLength) {
  std::map<std::string, std::vector<Evaluation>> asked;
  TableOptions options;
  options.seed = 9;
  const auto text = MakePaperTable(PaperTable::kMambaPaper, options, kZoo,
                                   [&](const Evaluation& e) {
                                     asked[e.model].push_back(e);
                                     return ThreeOfFour(e);
                                   });
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(asked["mamba-induction-t256"], SizeIs(15));
  EXPECT_THAT(asked["mamba-induction"], SizeIs(15));
  EXPECT_THAT(asked["h3-induction-t256"], SizeIs(15));
  ASSERT_THAT(asked["attention-induction-t256"], SizeIs(9));
  EXPECT_EQ(asked["attention-induction-t256"].back().settings.length, 16'384);
  EXPECT_EQ(asked["attention-induction-t256"].back().count, 16);
  EXPECT_EQ(asked["h3-induction-t256"][8].count, 128);
  for (const Evaluation& evaluation : asked["mamba-induction-t256"]) {
    EXPECT_TRUE(evaluation.through_session);
    EXPECT_EQ(evaluation.settings.vocabulary, 16);
    EXPECT_EQ(evaluation.seed, 9u);
  }
  const std::string cell = "75.0 (72.2 to 77.6)";
  EXPECT_THAT(Row(*text, "512"), ElementsAre("512", "1,000", cell, cell, cell,
                                             cell, "100", "80.9", "83.6"));
  const std::vector<std::string> last = Row(*text, "1,048,576");
  ASSERT_THAT(last, SizeIs(9));
  EXPECT_EQ(last[1], "16");
  EXPECT_EQ(last[5], "-");
  EXPECT_EQ(last[7], "7.4");
  EXPECT_EQ(last[8], "-");
  EXPECT_THAT(*text, HasSubstr("`attention-induction-t256` is not asked beyond "
                               "16,384 symbols, as in the paper"));
  EXPECT_THAT(Row(*text, "16,384")[5], EndsWith(" of 16"));
  // The second table.
  const std::string bytes = text->substr(text->find("bytes of a session"));
  EXPECT_THAT(Row(bytes, "64"),
              ElementsAre("64", "1,000", "1,000", "1,000", "64,000"));
  EXPECT_THAT(Row(bytes, "16,384"),
              ElementsAre("16,384", "1,000", "1,000", "1,000", "16,384,000"));
}

TEST(PaperTables, WhatTheServerRefusesIsNotAskedAtALongerLength) {
  int refused = 0;
  const auto text =
      MakePaperTable(PaperTable::kMambaPaper, {}, {"h3-induction-t256"},
                     [&](const Evaluation& e) -> absl::StatusOr<EvalResult> {
                       if (e.settings.length < 4096) return ThreeOfFour(e);
                       ++refused;
                       return absl::ResourceExhaustedError("no memory");
                     });
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(refused, 1);
  EXPECT_THAT(*text,
              HasSubstr("`h3-induction-t256` at length 4,096: no memory."));
  EXPECT_EQ(Row(*text, "2,048")[4], "75.0 (72.2 to 77.6)");
  EXPECT_EQ(Row(*text, "8,192")[4], "-");
}

TEST(PaperTables, AnyOtherErrorEndsIt) {
  const auto text =
      MakePaperTable(PaperTable::kH3Paper, {}, kZoo,
                     [](const Evaluation&) -> absl::StatusOr<EvalResult> {
                       return absl::UnavailableError("gone");
                     });
  EXPECT_EQ(text.status(), absl::UnavailableError("gone"));
}

TEST(PaperTables, AllRowsHaveAsManyCellsAsTheHead) {
  for (PaperTable table : {PaperTable::kH3Paper, PaperTable::kMambaPaper}) {
    const auto text = MakePaperTable(table, {}, kZoo, ThreeOfFour);
    ASSERT_TRUE(text.ok()) << text.status();
    size_t cells = 0;
    for (absl::string_view line : absl::StrSplit(*text, '\n')) {
      const size_t here = std::count(line.begin(), line.end(), '|');
      if (cells > 0 && here > 0) {
        EXPECT_EQ(here, cells) << line;
      }
      cells = here;
    }
  }
}

TEST(TableOptions, LongPromptsAreFewer) {
  const TableOptions options;
  EXPECT_EQ(options.CountAt(64), 1000);
  EXPECT_EQ(options.CountAt(2048), 1000);
  EXPECT_EQ(options.CountAt(16'384), 128);
  EXPECT_EQ(options.CountAt(65'536), 32);
  EXPECT_EQ(options.CountAt(1'048'576), 16);
  TableOptions few;
  few.count = 5;
  EXPECT_EQ(few.CountAt(64), 5);
  EXPECT_EQ(few.CountAt(1'048'576), 5);
}

TEST(TableOptions, WhatIsWrongIsNamedWithItsLimit) {
  struct Case {
    std::vector<std::string> arguments;
    const char* message;
  };
  for (const Case& wrong : {
           Case{{"--max-length=32"}, "--max-length is 32, it takes 64 to"},
           Case{{"--max-length=2097152"}, "to 1048576"},
           Case{{"--least-count=0"}, "--least-count is 0, it takes 1 or more"},
           Case{{"--count=0"}, "--count is 0, it takes 1 to 10000000"},
           Case{{"--tokens-per-length=0"}, "--tokens-per-length is 0"},
           Case{{"--concurrency=0"}, "--concurrency is 0, it takes 1 to 256"},
       }) {
    TableOptions options;
    FlagSet flags;
    options.AddTo(&flags);
    ASSERT_TRUE(flags.Parse(wrong.arguments).ok());
    EXPECT_THAT(options.Check().message(), HasSubstr(wrong.message));
  }
  EXPECT_TRUE(TableOptions().Check().ok());
}

TEST(TableOptions, NamesAreParsed) {
  EXPECT_EQ(*ParsePaperTable("h3-paper"), PaperTable::kH3Paper);
  EXPECT_EQ(*ParsePaperTable("mamba-paper"), PaperTable::kMambaPaper);
  EXPECT_THAT(ParsePaperTable("gpt-paper").status().message(),
              HasSubstr("known are h3-paper, mamba-paper"));
}

}  // namespace
}  // namespace engram::client
