// Evaluations against a scripted server, which answers "0" to everything, and
// the options and reports.
#include "clients/cpp/eval_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_split.h"
#include "clients/cpp/eval_options.h"
#include "clients/cpp/eval_report.h"
#include "tests/clients/scripted_server.h"

namespace engram::client {
namespace {

using ::testing::DoubleEq;
using ::testing::DoubleNear;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

// Of a command line.
absl::StatusOr<EvalOptions> Parse(const std::vector<std::string>& arguments) {
  EvalOptions options;
  FlagSet flags;
  options.AddTo(&flags);
  absl::StatusOr<std::vector<std::string>> others = flags.Parse(arguments);
  if (!others.ok()) return others.status();
  absl::Status status = options.Complete();
  if (!status.ok()) return status;
  return options;
}

EvalRun RunOf(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(),
                   {"--task=induction-head", "--vocabulary=16", "--model=m"});
  absl::StatusOr<EvalOptions> options = Parse(arguments);
  EXPECT_TRUE(options.ok()) << options.status();
  EvalRun run;
  run.evaluation = options->evaluation;
  // Not the places themselves, so that a mix-up is seen.
  for (int32_t i = 0; i < 16; ++i) run.symbol_ids.push_back(100 + i);
  run.session_prefix = "eval";
  return run;
}

ClientOptions OptionsFor(const std::string& server) {
  ClientOptions options;
  options.server = server;
  options.retries = 0;
  return options;
}

absl::StatusOr<EvalResult> RunToTheEnd(const EvalRun& run,
                                       const ScriptedServer& server) {
  Client client(OptionsFor(server.address()));
  Cancellation cancellation;
  return RunEvaluation(run, &client, &cancellation);
}

ScriptedCall Failure(grpc::StatusCode code, const std::string& message) {
  ScriptedCall call;
  call.status = {code, message};
  return call;
}

std::multiset<std::string> Texts(const ScriptedServer& server) {
  std::multiset<std::string> texts;
  for (const v1::GenerateRequest& request : server.requests()) {
    texts.insert(request.text());
  }
  return texts;
}

TEST(EvalRun, AsksForTheLikeliestTokenAndCountsRightAnswers) {
  ScriptedServer server(1, {});
  const EvalRun run = RunOf({"--count=300", "--length=8"});
  const absl::StatusOr<EvalResult> result = RunToTheEnd(run, server);
  ASSERT_TRUE(result.ok()) << result.status();
  const std::vector<std::string> symbols = SymbolsOf(16);
  int zeros = 0;
  for (int i = 0; i < 300; ++i) {
    const Example example = DrawExample(run.evaluation.settings, 1, i);
    zeros += symbols[example.answer] == "0";
  }
  EXPECT_THAT(zeros, Gt(0));
  EXPECT_EQ(result->right, zeros);
  EXPECT_EQ(result->count, 300);
  EXPECT_EQ(result->prompt_tokens, 300 * 9);
  EXPECT_EQ(result->state_bytes, 0);
  const std::vector<v1::GenerateRequest> requests = server.requests();
  ASSERT_EQ(requests.size(), 300u);
  for (const v1::GenerateRequest& request : requests) {
    EXPECT_EQ(request.model(), "m");
    EXPECT_EQ(request.session_id(), "");
    EXPECT_EQ(request.sampling().temperature(), 0);
    EXPECT_EQ(request.stopping().max_tokens(), 1);
    const std::vector<std::string> words = absl::StrSplit(request.text(), ' ');
    EXPECT_THAT(words, SizeIs(9));
  }
}

TEST(EvalRun, TheSeedAloneDecidesWhatIsAsked) {
  ScriptedServer one(1, {});
  ScriptedServer many(1, {});
  ScriptedServer other(1, {});
  const auto first = RunToTheEnd(RunOf({"--count=50", "--concurrency=1"}), one);
  const auto second =
      RunToTheEnd(RunOf({"--count=50", "--concurrency=16"}), many);
  const auto third = RunToTheEnd(RunOf({"--count=50", "--seed=2"}), other);
  ASSERT_TRUE(first.ok() && second.ok() && third.ok());
  EXPECT_EQ(Texts(one), Texts(many));
  EXPECT_NE(Texts(one), Texts(other));
  EXPECT_EQ(first->right, second->right);
}

TEST(EvalRun, AnErrorEndsItAndIsNoWrongAnswer) {
  ScriptedServer server(
      1, {ScriptedCall(),
          Failure(grpc::StatusCode::INVALID_ARGUMENT, "too long")});
  const absl::StatusOr<EvalResult> result =
      RunToTheEnd(RunOf({"--count=100", "--concurrency=1"}), server);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(result.status().message(), "too long");
  EXPECT_EQ(server.requests().size(), 2u);
}

TEST(EvalRun, WaitsForABusyServerHoweverOftenItRefuses) {
  ScriptedServer server(1, std::vector<ScriptedCall>(20, Busy(1)));
  const absl::StatusOr<EvalResult> result =
      RunToTheEnd(RunOf({"--count=3", "--concurrency=1"}), server);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->count, 3);
  EXPECT_EQ(server.requests().size(), 23u);
}

TEST(EvalRun, AServerThatIsGoneIsAnError) {
  Client client(OptionsFor("127.0.0.1:1"));
  Cancellation cancellation;
  EXPECT_TRUE(absl::IsUnavailable(
      RunEvaluation(RunOf({"--count=10"}), &client, &cancellation).status()));
  EXPECT_TRUE(absl::IsUnavailable(FindSymbolIds("m", 16, &client).status()));
}

TEST(EvalRun, CancellingEndsItWithWhatThereIs) {
  ScriptedCall hangs;
  hangs.hangs = true;
  ScriptedServer server(1, {ScriptedCall(), ScriptedCall(), hangs});
  EvalRun run = RunOf({"--count=100", "--concurrency=1"});
  Client client(OptionsFor(server.address()));
  Cancellation cancellation;
  run.progress_interval = absl::Milliseconds(1);
  run.on_progress = [&](const EvalProgress& progress) {
    if (progress.asked == 2) cancellation.Cancel();
  };
  const absl::StatusOr<EvalResult> result =
      RunEvaluation(run, &client, &cancellation);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->count, 2);
}

// The ids of the tokens of a request's prompt.
std::vector<int32_t> Ids(const v1::GenerateRequest& request) {
  return {request.token_ids().ids().begin(), request.token_ids().ids().end()};
}

TEST(EvalRun, ThroughASessionAPromptIsFedInTurns) {
  ScriptedServer server(1, {});
  server.AddSession("eval-0", 3);
  const EvalRun run = RunOf(
      {"--count=1", "--length=10", "--through-session", "--turn-tokens=4"});
  const absl::StatusOr<EvalResult> result = RunToTheEnd(run, server);
  ASSERT_TRUE(result.ok()) << result.status();
  const std::vector<v1::GenerateRequest> requests = server.requests();
  ASSERT_EQ(requests.size(), 3u);
  std::vector<int32_t> fed;
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(requests[i].session_id(), "eval-0");
    EXPECT_EQ(requests[i].expected_version(), static_cast<int64_t>(i));
    EXPECT_EQ(requests[i].stopping().max_tokens(), i == 2 ? 1 : 0);
    EXPECT_THAT(Ids(requests[i]), SizeIs(i == 2 ? 3 : 4));
    for (int32_t id : Ids(requests[i])) fed.push_back(id - 100);
  }
  EXPECT_EQ(fed, DrawExample(run.evaluation.settings, 1, 0).prompt);
  EXPECT_EQ(result->prompt_tokens, 11);
  // This server cannot delete.
  EXPECT_EQ(result->sessions_left, 1);
}

TEST(EvalRun, TellsOfItsProgress) {
  ScriptedServer server(1, {});
  EvalRun run = RunOf({"--count=500", "--length=8", "--concurrency=1"});
  run.progress_interval = absl::Milliseconds(1);
  EvalProgress last;
  run.on_progress = [&](const EvalProgress& progress) {
    EXPECT_GE(progress.asked, last.asked);
    EXPECT_GE(progress.tokens, 9 * progress.asked);
    last = progress;
  };
  ASSERT_TRUE(RunToTheEnd(run, server).ok());
  EXPECT_THAT(last.seconds, Gt(0));
  EXPECT_THAT(last.asked, Gt(0));
}

// --- Options.

TEST(EvalOptions, DefaultsFollowTheTask) {
  const auto head = Parse({"--task=induction-head"});
  ASSERT_TRUE(head.ok());
  EXPECT_EQ(head->evaluation.settings.vocabulary, 20);
  EXPECT_EQ(head->evaluation.settings.length, 30);
  EXPECT_EQ(head->evaluation.count, 1000);
  EXPECT_EQ(head->evaluation.turn_tokens, 65'536);
  const auto recall = Parse({"--task=associative-recall", "--length=40"});
  ASSERT_TRUE(recall.ok());
  EXPECT_EQ(recall->evaluation.settings.vocabulary, 10);
  EXPECT_EQ(recall->evaluation.settings.length, 40);
}

TEST(EvalOptions, WhatIsWrongIsNamedWithItsLimit) {
  struct Case {
    std::vector<std::string> arguments;
    const char* message;
  };
  for (const Case& wrong : {
           Case{{}, "which task?"},
           Case{{"--task=inducton-head"}, "did you mean induction-head?"},
           Case{{"--task=induction-head", "--vocabulary=2"},
                "vocabulary is 2, induction-head takes 4 to 10000"},
           Case{{"--task=induction-head", "--length=1048577"},
                "length is 1048577, induction-head takes 3 to 1048576"},
           Case{{"--task=induction-head", "--count=0"},
                "--count is 0, it takes 1 to 10000000"},
           Case{{"--task=induction-head", "--concurrency=257"},
                "--concurrency is 257, it takes 1 to 256"},
           Case{{"--task=induction-head", "--turn-tokens=0"},
                "--turn-tokens is 0, it takes 1 to 1048576"},
           Case{{"--task=induction-head", "--seed=-1"},
                "flag --seed: '-1' is not a whole number from 0"},
           Case{{"--tsk=induction-head"}, "--task"},
       }) {
    const absl::Status status = Parse(wrong.arguments).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_THAT(status.message(), HasSubstr(wrong.message));
  }
}

// --- Reports.

Evaluation ReportedEvaluation() {
  Evaluation evaluation;
  evaluation.model = "model";
  evaluation.settings = DefaultSettings(EvalTask::kInductionHead);
  evaluation.count = 10;
  evaluation.seed = 7;
  return evaluation;
}

TEST(EvalReport, TellsAccuracyIntervalAndChance) {
  const EvalResult result = {
      .count = 10, .right = 8, .seconds = 2, .prompt_tokens = 310};
  EXPECT_EQ(
      EvalReportText("here:1", ReportedEvaluation(), result),
      "model at here:1: induction-head, vocabulary 20, length 30, seed 7\n"
      "accuracy 80.0 % (8 of 10 right), 95 % interval 49.0 to 94.3, "
      "chance 5.6\n"
      "2.0 s, 155 prompt tokens/s\n");
}

TEST(EvalReport, TellsWhatASessionTakesAndWhatWasNotAsked) {
  Evaluation evaluation = ReportedEvaluation();
  evaluation.through_session = true;
  const EvalResult result = {.count = 4, .right = 4, .state_bytes = 1'234'567};
  const std::string text = EvalReportText("here:1", evaluation, result);
  EXPECT_THAT(text, HasSubstr("takes 1,234,567 bytes\n"));
  EXPECT_THAT(text, HasSubstr("interrupted: 6 prompts were not asked\n"));
}

TEST(EvalReport, JsonHasEverything) {
  const EvalResult result = {
      .count = 10, .right = 8, .seconds = 2, .prompt_tokens = 310};
  const std::string line =
      EvalReportJson("here:1", ReportedEvaluation(), result);
  EXPECT_THAT(line, Not(HasSubstr("\n")));
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["parameters"]["model"], "model");
  EXPECT_EQ(json["parameters"]["task"], "induction-head");
  EXPECT_EQ(json["parameters"]["vocabulary"], 20);
  EXPECT_EQ(json["parameters"]["length"], 30);
  EXPECT_EQ(json["parameters"]["seed"], 7);
  EXPECT_EQ(json["count"], 10);
  EXPECT_EQ(json["right"], 8);
  EXPECT_THAT(json["accuracy"].get<double>(), DoubleEq(0.8));
  EXPECT_THAT(json["interval_low"].get<double>(), DoubleNear(0.4902, 1e-4));
  EXPECT_THAT(json["interval_high"].get<double>(), DoubleNear(0.9433, 1e-4));
  EXPECT_THAT(json["chance"].get<double>(), DoubleEq(1 / 18.0));
  EXPECT_THAT(json["prompt_tokens_per_second"].get<double>(), DoubleEq(155));
  EXPECT_TRUE(json["state_bytes"].is_null());
}

TEST(EvalReport, NothingAnsweredIsNoDivisionByZero) {
  EXPECT_THAT(EvalReportText("here:1", ReportedEvaluation(), {}),
              HasSubstr("accuracy 0.0 % (0 of 0 right)"));
}

TEST(EvalReport, ProgressIsOneLine) {
  EXPECT_EQ(EvalProgressLine(ReportedEvaluation(), {4, 5, 3, 200}),
            "     4 s: model, induction-head, length 30: 5 of 10 answered, 3 "
            "right, 50 tokens/s");
}

TEST(EvalReport, OnlyAllAndNoneAreAHundredAndZeroPercent) {
  EXPECT_EQ(Percent(1), "100.0");
  EXPECT_EQ(Percent(0.9999), "99.9");
  EXPECT_EQ(Percent(0.9987), "99.9");
  EXPECT_EQ(Percent(0.5), "50.0");
  EXPECT_EQ(Percent(0.00001), "0.1");
  EXPECT_EQ(Percent(0), "0.0");
}

TEST(EvalReport, LargeNumbersHaveCommas) {
  EXPECT_EQ(WithCommas(0), "0");
  EXPECT_EQ(WithCommas(999), "999");
  EXPECT_EQ(WithCommas(1'000), "1,000");
  EXPECT_EQ(WithCommas(1'048'576), "1,048,576");
}

}  // namespace
}  // namespace engram::client
