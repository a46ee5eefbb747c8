#include "clients/cpp/eval_tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

namespace engram::client {
namespace {

using ::testing::AllOf;
using ::testing::DoubleEq;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::SizeIs;

constexpr int kExamples = 2000;

auto Near(double value, double error) {
  return AllOf(Ge(value - error), Le(value + error));
}

std::vector<Example> Draw(const TaskSettings& settings, uint64_t seed) {
  std::vector<Example> examples;
  for (int i = 0; i < kExamples; ++i) {
    examples.push_back(DrawExample(settings, seed, i));
  }
  return examples;
}

const TaskSettings kInduction = DefaultSettings(EvalTask::kInductionHead);
const TaskSettings kRecall = DefaultSettings(EvalTask::kAssociativeRecall);

TEST(EvalTasks, SymbolsAreSortedAsText) {
  EXPECT_THAT(SymbolsOf(14), ElementsAre(".", "0", "1", "10", "11", "2", "3",
                                         "4", "5", "6", "7", "8", "9", "=>"));
  const std::vector<std::string> symbols = SymbolsOf(20);
  ASSERT_THAT(symbols, SizeIs(20));
  EXPECT_EQ(symbols[3], "10");
  EXPECT_EQ(symbols[10], "17");
  EXPECT_EQ(symbols[11], "2");
  EXPECT_EQ(symbols[18], "9");
  EXPECT_EQ(symbols[19], "=>");
}

TEST(EvalTasks, TheDefaultsAreThoseOfTheH3Paper) {
  EXPECT_EQ(kInduction.vocabulary, 20);
  EXPECT_EQ(kInduction.length, 30);
  EXPECT_EQ(kRecall.vocabulary, 10);
  EXPECT_EQ(kRecall.length, 20);
  EXPECT_THAT(ChanceOf(kInduction), DoubleEq(1 / 18.0));
  EXPECT_THAT(ChanceOf(kRecall), DoubleEq(1 / 4.0));
  EXPECT_THAT(ChanceOf({EvalTask::kAssociativeRecall, 20, 40}),
              DoubleEq(1 / 9.0));
}

TEST(InductionHead, TheAnswerFollowedTheFirstOfTwoTriggers) {
  for (const Example& example : Draw(kInduction, 1)) {
    const std::vector<int32_t>& prompt = example.prompt;
    ASSERT_THAT(prompt, SizeIs(31));
    ASSERT_EQ(PromptSymbols(kInduction), 31);
    ASSERT_EQ(std::count(prompt.begin(), prompt.end(), 19), 2);
    ASSERT_EQ(prompt.back(), 19);
    const auto first = std::find(prompt.begin(), prompt.end(), 19);
    ASSERT_LE(first - prompt.begin(), 27);
    ASSERT_EQ(example.answer, *(first + 1));
    // Never the no-op.
    ASSERT_THAT(prompt, Each(AllOf(Ge(1), Le(19))));
  }
}

TEST(InductionHead, SymbolsAndPlacesAreAllEquallyLikely) {
  std::map<int32_t, int> answers;
  std::map<int64_t, int> places;
  for (const Example& example : Draw(kInduction, 2)) {
    ++answers[example.answer];
    ++places[std::find(example.prompt.begin(), example.prompt.end(), 19) -
             example.prompt.begin()];
  }
  EXPECT_THAT(answers, SizeIs(18));
  EXPECT_THAT(places, SizeIs(28));
  // Five standard deviations.
  for (const auto& [answer, count] : answers) {
    EXPECT_THAT(count, Near(kExamples / 18.0, 52)) << answer;
  }
  for (const auto& [place, count] : places) {
    EXPECT_THAT(count, Near(kExamples / 28.0, 42)) << place;
  }
}

TEST(InductionHead, TheShortestPromptHasOnePlaceForTheTrigger) {
  const TaskSettings settings = {EvalTask::kInductionHead, 4, 3};
  for (const Example& example : Draw(settings, 3)) {
    ASSERT_THAT(example.prompt,
                ElementsAre(3, example.answer, AllOf(Ge(1), Le(2)), 3));
  }
}

TEST(AssociativeRecall, KeysKeepTheirValuesAndTheAnswerIsOneOfThem) {
  bool values_repeat = false;
  for (const Example& example : Draw(kRecall, 1)) {
    const std::vector<int32_t>& prompt = example.prompt;
    ASSERT_THAT(prompt, SizeIs(22));
    ASSERT_EQ(PromptSymbols(kRecall), 22);
    std::map<int32_t, int32_t> value_of;
    std::set<int32_t> values;
    for (size_t i = 0; i < 20; i += 2) {
      // The keys are "0" to "3", the values "4" to "7".
      ASSERT_THAT(prompt[i], AllOf(Ge(1), Le(4)));
      ASSERT_THAT(prompt[i + 1], AllOf(Ge(5), Le(8)));
      const auto [found, fresh] = value_of.emplace(prompt[i], prompt[i + 1]);
      ASSERT_EQ(found->second, prompt[i + 1]);
      values.insert(prompt[i + 1]);
    }
    ASSERT_EQ(prompt[20], 9);
    ASSERT_TRUE(value_of.contains(prompt[21]));
    ASSERT_EQ(example.answer, value_of[prompt[21]]);
    values_repeat = values_repeat || values.size() < value_of.size();
  }
  EXPECT_TRUE(values_repeat);
}

TEST(AssociativeRecall, KeysAndAnswersAreAllEquallyLikely) {
  std::map<int32_t, int> questions;
  std::map<int32_t, int> answers;
  for (const Example& example : Draw(kRecall, 2)) {
    ++questions[example.prompt.back()];
    ++answers[example.answer];
  }
  for (int32_t i = 0; i < 4; ++i) {
    EXPECT_THAT(questions[1 + i], Near(kExamples / 4.0, 97));
    EXPECT_THAT(answers[5 + i], Near(kExamples / 4.0, 97));
  }
}

TEST(AssociativeRecall, KeysAreTheFirstHalfAsText) {
  const TaskSettings settings = {EvalTask::kAssociativeRecall, 20, 40};
  const std::vector<std::string> symbols = SymbolsOf(20);
  std::set<std::string> keys;
  for (const Example& example : Draw(settings, 3)) {
    keys.insert(symbols[example.prompt.back()]);
  }
  EXPECT_THAT(keys,
              ElementsAre("0", "1", "10", "11", "12", "13", "14", "15", "16"));
}

TEST(AssociativeRecall, AKeyThatDidNotOccurIsNotAskedFor) {
  const TaskSettings settings = {EvalTask::kAssociativeRecall, 10, 2};
  for (const Example& example : Draw(settings, 4)) {
    ASSERT_THAT(example.prompt, ElementsAre(example.prompt[3], example.answer,
                                            9, example.prompt[0]));
  }
}

TEST(EvalTasks, AnExampleIsAFunctionOfSeedAndNumber) {
  for (const TaskSettings& settings : {kInduction, kRecall}) {
    const Example example = DrawExample(settings, 5, 77);
    EXPECT_EQ(DrawExample(settings, 5, 77).prompt, example.prompt);
    EXPECT_NE(DrawExample(settings, 5, 78).prompt, example.prompt);
    EXPECT_NE(DrawExample(settings, 6, 77).prompt, example.prompt);
    EXPECT_NE(DrawExample(settings, 5 + (uint64_t{1} << 32), 77).prompt,
              example.prompt);
  }
}

TEST(EvalTasks, APromptIsSymbolsWithBlanksBetween) {
  EXPECT_EQ(PromptText({19, 3, 1, 19}, SymbolsOf(20)), "=> 10 0 =>");
  EXPECT_EQ(PromptText({}, SymbolsOf(20)), "");
}

TEST(EvalTasks, NamesAreParsedAndMisspeltOnesSuggested) {
  EXPECT_EQ(*ParseEvalTask("induction-head"), EvalTask::kInductionHead);
  EXPECT_EQ(*ParseEvalTask("associative-recall"), EvalTask::kAssociativeRecall);
  EXPECT_EQ(ParseEvalTask("induction").status().message(),
            "unknown task 'induction'; did you mean induction-head?");
  EXPECT_THAT(ParseEvalTask("copying").status().message(),
              HasSubstr("known are induction-head, associative-recall"));
}

TEST(EvalTasks, SettingsBeyondALimitAreRefusedWithValueAndLimit) {
  const EvalTask head = EvalTask::kInductionHead;
  const EvalTask recall = EvalTask::kAssociativeRecall;
  for (const TaskSettings& settings :
       std::vector<TaskSettings>{{head, 4, 3},
                                 {head, 10'000, 1 << 20},
                                 {recall, 6, 2},
                                 {recall, 10'000, 1 << 20}}) {
    EXPECT_TRUE(CheckSettings(settings).ok());
  }
  struct Case {
    TaskSettings settings;
    const char* message;
  };
  for (const Case& wrong : {
           Case{{head, 3, 30},
                "vocabulary is 3, induction-head takes 4 to 10000"},
           Case{{head, 10'001, 30},
                "vocabulary is 10001, induction-head takes 4 to 10000"},
           Case{{head, 20, 2},
                "length is 2, induction-head takes 3 to 1048576"},
           Case{{head, 20, (1 << 20) + 1},
                "length is 1048577, induction-head takes 3 to 1048576"},
           Case{{recall, 5, 20},
                "vocabulary is 5, associative-recall takes 6 to 10000"},
           Case{{recall, 11, 20},
                "vocabulary is 11, associative-recall takes even ones: as many "
                "keys as values"},
           Case{{recall, 10, 21},
                "length is 21, associative-recall takes even ones: pairs of "
                "key and value"},
       }) {
    EXPECT_EQ(CheckSettings(wrong.settings),
              absl::InvalidArgumentError(wrong.message));
  }
}

}  // namespace
}  // namespace engram::client
