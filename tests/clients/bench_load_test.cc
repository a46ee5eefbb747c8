// The load generator against a scripted server, and its options and report.
#include "clients/cpp/bench_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "clients/cpp/bench_options.h"
#include "clients/cpp/bench_report.h"
#include "tests/clients/scripted_server.h"

namespace engram::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr int kAnswerTokens = 3;

// Complete options from a command line.
BenchOptions Options(std::vector<std::string> arguments) {
  BenchOptions options;
  FlagSet flags;
  options.AddTo(&flags);
  EXPECT_TRUE(flags.Parse(arguments).ok());
  EXPECT_TRUE(options.Complete().ok());
  return options;
}

BenchLoad Load(const ScriptedServer& server,
               std::vector<std::string> arguments) {
  BenchLoad load;
  load.options = Options(std::move(arguments));
  load.options.server = server.address();
  load.vocabulary_size = 16;
  load.session_prefix = "bench";
  return load;
}

LoadResult RunToTheEnd(const BenchLoad& load) {
  Cancellation cancellation;
  return RunLoad(load, &cancellation).value();
}

TEST(BenchLoad, KeepsLongPromptsRunningBesideWhatIsMeasured) {
  ScriptedServer server(kAnswerTokens, {});
  const LoadResult result = RunToTheEnd(
      Load(server, {"--requests=200", "--prompt-tokens=5", "--long-prompts=2",
                    "--long-prompt-tokens=500"}));
  std::map<int, int> by_length;
  for (const v1::GenerateRequest& request : server.requests()) {
    ++by_length[request.token_ids().ids_size()];
  }
  EXPECT_EQ(by_length[5], 200);
  EXPECT_GE(by_length[500], 2);
  EXPECT_EQ(by_length.size(), 2u);
  const Measurements measurements = Measure(result.turns, {});
  EXPECT_EQ(measurements.requests, 200);
  EXPECT_EQ(measurements.time_to_first_token.count, 200u);
  EXPECT_EQ(measurements.interrupted, 0);
  EXPECT_THAT(measurements.errors, IsEmpty());
  EXPECT_EQ(measurements.long_prompts_failed, 0);
}

TEST(BenchLoad, LongPromptsComeAgainToABusyServer) {
  // For the first long one and the first measured one.
  ScriptedServer server(kAnswerTokens, {Busy(1), Busy(1)});
  RunToTheEnd(Load(server, {"--requests=200", "--long-prompts=1",
                            "--long-prompt-tokens=500"}));
  int long_prompts = 0;
  for (const v1::GenerateRequest& request : server.requests()) {
    long_prompts += request.token_ids().ids_size() == 500;
  }
  EXPECT_GE(long_prompts, 2);
}

TEST(BenchLoad, LongPromptsBesideSessionsAreOnNone) {
  ScriptedServer server(kAnswerTokens, {});
  // Long enough that the server comes to the long one meanwhile.
  RunToTheEnd(Load(server, {"--sessions=1", "--turns=200", "--long-prompts=1",
                            "--long-prompt-tokens=500"}));
  for (const v1::GenerateRequest& request : server.requests()) {
    EXPECT_EQ(request.session_id().empty(),
              request.token_ids().ids_size() == 500);
  }
  const std::vector<std::string> all = server.told_sessions();
  const std::set<std::string> told(all.begin(), all.end());
  EXPECT_THAT(told, ElementsAre("Generate ", "Generate bench-0"));
}

TEST(BenchLoad, ClosedLoopRunsAllRequestsAndTheWarmUp) {
  ScriptedServer server(kAnswerTokens, {});
  const LoadResult result = RunToTheEnd(
      Load(server, {"--concurrency=4", "--requests=20", "--warmup=3",
                    "--prompt-tokens=5", "--output-tokens=2..4"}));
  ASSERT_THAT(result.turns, SizeIs(23));
  EXPECT_THAT(result.session_ids, IsEmpty());
  for (const TurnRecord& turn : result.turns) {
    EXPECT_TRUE(turn.status.ok()) << turn.status;
    EXPECT_THAT(turn.tokens, SizeIs(kAnswerTokens));
    EXPECT_LE(turn.intended_start, turn.sent);
    EXPECT_LE(turn.sent, turn.tokens.front());
    EXPECT_LE(turn.tokens.back(), turn.end);
  }
  EXPECT_EQ(Measure(result.turns, {}).succeeded, 20);
  for (const v1::GenerateRequest& request : server.requests()) {
    EXPECT_EQ(request.token_ids().ids_size(), 5);
    EXPECT_GE(request.stopping().max_tokens(), 2);
    EXPECT_LE(request.stopping().max_tokens(), 4);
    EXPECT_TRUE(request.stopping().ignore_eos());
  }
}

TEST(BenchLoad, OpenLoopStartsRequestsWhenTheyAreDue) {
  ScriptedServer server(kAnswerTokens, {});
  const BenchLoad load = Load(server, {"--rate=2000", "--requests=30"});
  const LoadResult result = RunToTheEnd(load);
  ASSERT_THAT(result.turns, SizeIs(30));
  std::vector<SteadyClock::time_point> due;
  for (const TurnRecord& turn : result.turns) {
    due.push_back(turn.intended_start);
  }
  std::sort(due.begin(), due.end());
  for (int i = 1; i < 30; ++i) {
    EXPECT_EQ(due[i] - due[i - 1],
              DrawArrivalGap(load.options.seed, i, load.options.rate));
  }
}

TEST(BenchLoad, OpenLoopDoesNotWaitForAnswers) {
  // The first requests are never answered; the others come all the same.
  ScriptedCall hangs;
  hangs.hangs = true;
  ScriptedServer server(kAnswerTokens, {hangs, hangs});
  BenchLoad load = Load(server, {"--rate=2000", "--requests=10"});
  Cancellation cancellation;
  load.progress_interval = absl::Milliseconds(1);
  load.on_progress = [&](const BenchProgress& progress) {
    if (progress.succeeded == 8) cancellation.Cancel();
  };
  const LoadResult result = RunLoad(load, &cancellation).value();
  const Measurements figures = Measure(result.turns, {});
  EXPECT_EQ(figures.succeeded, 8);
  EXPECT_EQ(figures.interrupted, 2);
  EXPECT_THAT(figures.errors, IsEmpty());
}

TEST(BenchLoad, TurnsOfASessionFollowOneAnother) {
  ScriptedServer server(kAnswerTokens, {});
  const LoadResult result = RunToTheEnd(
      Load(server, {"--sessions=4", "--turns=3", "--think-time=1ms"}));
  EXPECT_THAT(result.turns, SizeIs(12));
  EXPECT_THAT(result.session_ids, SizeIs(4));
  std::map<std::string, int64_t> versions;
  for (const v1::GenerateRequest& request : server.requests()) {
    ASSERT_TRUE(request.has_expected_version());
    EXPECT_EQ(request.expected_version(), versions[request.session_id()]++);
    EXPECT_THAT(request.request_id(), Not(IsEmpty()));
  }
  EXPECT_THAT(versions, SizeIs(4));
}

TEST(BenchLoad, ASessionEndsWithAFailedTurn) {
  ScriptedCall fails;
  fails.status = {grpc::StatusCode::RESOURCE_EXHAUSTED, "full"};
  ScriptedServer server(kAnswerTokens, {fails});
  const LoadResult result = RunToTheEnd(
      Load(server, {"--sessions=2", "--turns=2", "--concurrency=1"}));
  const Measurements figures = Measure(result.turns, {});
  EXPECT_EQ(figures.requests, 3);
  EXPECT_EQ(figures.errors.at("RESOURCE_EXHAUSTED"), 1);
}

TEST(BenchLoad, ADurationEndsIt) {
  ScriptedServer server(kAnswerTokens, {});
  const LoadResult result = RunToTheEnd(
      Load(server, {"--duration=20ms", "--warmup=2", "--connections=2"}));
  EXPECT_GE(Measure(result.turns, {}).succeeded, 1);
}

TEST(BenchLoad, CountsAStreamWithoutCompletedAsAnError) {
  ScriptedCall call;
  call.send_completed = false;
  ScriptedServer server(kAnswerTokens, {call});
  const LoadResult result = RunToTheEnd(Load(server, {"--requests=2"}));
  EXPECT_EQ(Measure(result.turns, {}).errors.at("INTERNAL"), 1);
}

TEST(BenchLoad, SaysWhichFileOfTlsCannotBeUsedAnyMore) {
  ScriptedServer server(kAnswerTokens, {});
  BenchLoad load = Load(server, {"--requests=2"});
  load.options.tls.ca = "/nowhere";
  Cancellation cancellation;
  EXPECT_THAT(std::string(RunLoad(load, &cancellation).status().message()),
              HasSubstr("/nowhere cannot be read"));
}

TEST(BenchLoad, TellsTheSessionOfEachTurnAsMetadata) {
  ScriptedServer server(kAnswerTokens, {});
  RunToTheEnd(Load(server, {"--sessions=2", "--turns=1"}));
  EXPECT_THAT(
      server.told_sessions(),
      ::testing::UnorderedElementsAre("Generate bench-0", "Generate bench-1"));
}

TEST(BenchOptions, RefusesWhatDoesNotGoTogether) {
  const auto error = [](std::vector<std::string> arguments) {
    BenchOptions options;
    FlagSet flags;
    options.AddTo(&flags);
    EXPECT_TRUE(flags.Parse(arguments).ok());
    return std::string(options.Complete().message());
  };
  EXPECT_THAT(error({"--rate=1", "--concurrency=1"}), HasSubstr("not both"));
  EXPECT_THAT(error({"--sessions=1", "--requests=1"}), HasSubstr("--requests"));
  EXPECT_THAT(error({"--turns=2"}), HasSubstr("--sessions"));
  EXPECT_THAT(error({"--prompt-tokens=0..3"}), HasSubstr("--prompt-tokens"));
  EXPECT_THAT(error({"--long-prompt-tokens=0"}),
              HasSubstr("--long-prompt-tokens"));
}

TEST(BenchOptions, RefusesANumberThatMeansNothingByFlagAndValue) {
  for (const char* argument : {"--requests=0",
                               "--requests=-1",
                               "--concurrency=0",
                               "--sessions=0",
                               "--turns=0",
                               "--connections=0",
                               "--connections=1000000",
                               "--concurrency=1000000000",
                               "--rate=0",
                               "--rate=inf",
                               "--rate=nan",
                               "--duration=0",
                               "--deadline=0s",
                               "--warmup=-1",
                               "--goodput-ttft=-1",
                               "--goodput-itl=0",
                               "--goodput-e2e=inf",
                               "--prompt-tokens=999999999999",
                               "--output-tokens=2147483647",
                               "--seed=-1"}) {
    BenchOptions options;
    FlagSet flags;
    options.AddTo(&flags);
    const absl::Status status = flags.Parse({std::string(argument)}).status();
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(argument, '=');
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat("flag ", parts.first, ": '",
                                       parts.second, "'")));
  }
}

TEST(BenchOptions, HasSensibleDefaults) {
  EXPECT_EQ(Options({}).requests, 100);
  EXPECT_EQ(Options({}).concurrency, 1);
  EXPECT_EQ(Options({"--sessions=5"}).concurrency, 5);
  EXPECT_EQ(Options({"--rate=5"}).concurrency, 0);
  EXPECT_EQ(Options({"--duration=1s"}).requests, 0);
}

TEST(BenchReport, JsonHasParametersAndFigures) {
  TurnRecord turn;
  turn.tokens.push_back(turn.intended_start + std::chrono::milliseconds(3));
  turn.end = turn.intended_start + std::chrono::milliseconds(4);
  const std::string line =
      ReportJson(Options({"--seed=9"}), Measure({turn}, {}));
  const nlohmann::json report = nlohmann::json::parse(line);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(report["parameters"]["seed"], 9);
  EXPECT_TRUE(report["parameters"]["goodput_ttft_ms"].is_null());
  EXPECT_EQ(report["time_to_first_token_ms"]["p99"], 3);
  EXPECT_EQ(report["succeeded"], 1);
  EXPECT_EQ(report["failed"], 0);
  EXPECT_EQ(report["requests_per_second"], 250);
}

TEST(BenchReport, TextTellsErrors) {
  TurnRecord turn;
  turn.status = absl::UnavailableError("queue is full");
  const std::string text = ReportText(Options({}), Measure({turn}, {}));
  EXPECT_THAT(text,
              HasSubstr("error UNAVAILABLE: 1 requests, first: queue is full"));

  turn.beside = true;
  EXPECT_THAT(ReportText(Options({"--long-prompts=2"}), Measure({turn}, {})),
              HasSubstr("0 answered, 1 failed, first: UNAVAILABLE: queue is "
                        "full\n"));
}

TEST(BenchReport, ProgressTellsTheSpeedSinceTheLastLine) {
  EXPECT_EQ(ProgressLine({.seconds = 1, .output_tokens = 100},
                         {.seconds = 3,
                          .started = 9,
                          .running = 2,
                          .succeeded = 6,
                          .failed = 1,
                          .output_tokens = 300}),
            "     3 s: 9 started, 2 running, 6 done, 1 failed, 100 tokens/s");
}

}  // namespace
}  // namespace engram::client
