#include "clients/cpp/bench_measurements.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace engram::client {
namespace {

using std::chrono::milliseconds;
using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::Pair;

const SteadyClock::time_point kBegin = SteadyClock::time_point(milliseconds(5));

// A turn that is due `due` ms after the beginning, with tokens and an end so
// many milliseconds after that.
TurnRecord Turn(int due, std::vector<int> tokens, int end) {
  TurnRecord turn;
  turn.intended_start = kBegin + milliseconds(due);
  turn.sent = turn.intended_start + milliseconds(1);
  for (int token : tokens) {
    turn.tokens.push_back(turn.intended_start + milliseconds(token));
  }
  turn.end = turn.intended_start + milliseconds(end);
  turn.prompt_tokens = 10;
  return turn;
}

TEST(Percentile, InterpolatesBetweenNeighbours) {
  EXPECT_THAT(Percentile({7}, 0.99), DoubleEq(7));
  EXPECT_THAT(Percentile({1, 2}, 0.5), DoubleEq(1.5));
  EXPECT_THAT(Percentile({1, 2, 3, 4}, 0.25), DoubleEq(1.75));
  EXPECT_THAT(Percentile({1, 2, 3}, 0), DoubleEq(1));
  EXPECT_THAT(Percentile({1, 2, 3}, 1), DoubleEq(3));
}

TEST(Describe, TellsTheFiguresOfOneToAHundred) {
  std::vector<double> samples(100);
  std::iota(samples.rbegin(), samples.rend(), 1);
  const Distribution figures = Describe(samples);
  EXPECT_EQ(figures.count, 100u);
  EXPECT_THAT(figures.mean, DoubleEq(50.5));
  EXPECT_THAT(figures.p50, DoubleEq(50.5));
  EXPECT_THAT(figures.p90, DoubleEq(90.1));
  EXPECT_THAT(figures.p99, DoubleEq(99.01));
  EXPECT_THAT(figures.max, DoubleEq(100));
}

TEST(Describe, IsZeroWithoutSamples) {
  const Distribution figures = Describe({});
  EXPECT_EQ(figures.count, 0u);
  EXPECT_EQ(figures.p99, 0);
}

TEST(Measure, CountsLatenciesFromWhenTheTurnWasDue) {
  const Measurements result =
      Measure({Turn(0, {20, 30, 50}, 60), Turn(1000, {40}, 1000)}, {});
  EXPECT_EQ(result.requests, 2);
  EXPECT_EQ(result.succeeded, 2);
  EXPECT_THAT(result.seconds, DoubleEq(2));
  EXPECT_THAT(result.time_to_first_token.mean, DoubleEq(30));
  EXPECT_EQ(result.inter_token_latency.count, 2u);
  EXPECT_THAT(result.inter_token_latency.mean, DoubleEq(15));
  EXPECT_THAT(result.end_to_end.max, DoubleEq(1000));
  EXPECT_THAT(result.start_delay.mean, DoubleEq(1));
  EXPECT_EQ(result.prompt_tokens, 20);
  EXPECT_EQ(result.output_tokens, 4);
  EXPECT_THAT(result.PerSecond(result.output_tokens), DoubleEq(2));
}

TEST(Measure, LeavesOutTheWarmUp) {
  TurnRecord warm_up = Turn(0, {900}, 900);
  warm_up.warm_up = true;
  const Measurements result = Measure({warm_up, Turn(500, {10}, 500)}, {});
  EXPECT_EQ(result.requests, 1);
  EXPECT_THAT(result.seconds, DoubleEq(0.5));
  EXPECT_THAT(result.time_to_first_token.max, DoubleEq(10));
  EXPECT_EQ(result.output_tokens, 1);
}

TEST(Measure, CountsErrorsByCodeAndKeepsThemOutOfTheLatencies) {
  TurnRecord refused = Turn(0, {}, 1);
  refused.status = absl::UnavailableError("queue is full");
  TurnRecord broken = Turn(0, {5, 6}, 7);
  broken.status = absl::InternalError("broken");
  const Measurements result =
      Measure({refused, refused, broken, Turn(0, {10}, 20)}, {});
  EXPECT_EQ(result.requests, 4);
  EXPECT_EQ(result.succeeded, 1);
  EXPECT_THAT(result.errors,
              ElementsAre(Pair("INTERNAL", 1), Pair("UNAVAILABLE", 2)));
  EXPECT_EQ(result.error_messages.at("UNAVAILABLE"), "queue is full");
  EXPECT_EQ(result.end_to_end.count, 1u);
  EXPECT_EQ(result.good, 1);
  // Its tokens were made all the same.
  EXPECT_EQ(result.output_tokens, 3);
}

TEST(Measure, CountsInterruptedTurnsApart) {
  TurnRecord interrupted = Turn(0, {5}, 7);
  interrupted.interrupted = true;
  interrupted.status = absl::CancelledError("");
  const Measurements result = Measure({interrupted}, {});
  EXPECT_EQ(result.interrupted, 1);
  EXPECT_EQ(result.requests, 0);
  EXPECT_TRUE(result.errors.empty());
}

TEST(Measure, CountsLongPromptsBesideApart) {
  TurnRecord answered = Turn(0, {20}, 60);
  answered.beside = true;
  TurnRecord cut_off = Turn(60, {}, 70);
  cut_off.beside = cut_off.interrupted = true;
  cut_off.status = absl::CancelledError();
  TurnRecord refused = Turn(0, {}, 1);
  refused.beside = true;
  refused.status = absl::InvalidArgumentError("too long");
  const Measurements result =
      Measure({answered, cut_off, refused, Turn(0, {3}, 4)}, {});
  EXPECT_EQ(result.requests, 1);
  EXPECT_EQ(result.interrupted, 0);
  EXPECT_TRUE(result.errors.empty());
  EXPECT_EQ(result.long_prompts, 1);
  EXPECT_EQ(result.long_prompt_tokens, 10);
  EXPECT_EQ(result.long_prompts_failed, 1);
  EXPECT_EQ(result.long_prompt_error.message(), "too long");
}

TEST(Measure, IsZeroWithoutTurns) {
  const Measurements result = Measure({}, {});
  EXPECT_EQ(result.requests, 0);
  EXPECT_EQ(result.PerSecond(5), 0);
}

int64_t Good(GoodputLimits limits) {
  // First token after 20 ms, then a mean gap of 15 ms, all within 60 ms.
  return Measure({Turn(0, {20, 30, 50}, 60)}, limits).good;
}

TEST(Goodput, EveryLimitCounts) {
  EXPECT_EQ(Good({}), 1);
  EXPECT_EQ(Good({.time_to_first_token_ms = 20}), 1);
  EXPECT_EQ(Good({.time_to_first_token_ms = 19.9}), 0);
  EXPECT_EQ(Good({.inter_token_latency_ms = 15}), 1);
  EXPECT_EQ(Good({.inter_token_latency_ms = 14.9}), 0);
  EXPECT_EQ(Good({.end_to_end_ms = 60}), 1);
  EXPECT_EQ(Good({.end_to_end_ms = 59.9}), 0);
}

TEST(Goodput, AnswersOfNoOrOneTokenHaveNoGaps) {
  const GoodputLimits limits = {.time_to_first_token_ms = 10,
                                .inter_token_latency_ms = 0};
  EXPECT_EQ(Measure({Turn(0, {}, 5), Turn(0, {5}, 6)}, limits).good, 2);
}

}  // namespace
}  // namespace engram::client
