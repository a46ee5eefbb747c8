#include "server/step_time.h"

#include <algorithm>

#include "gtest/gtest.h"

namespace engram {
namespace {

constexpr absl::Duration kTarget = absl::Milliseconds(5);

// A machine on which a step takes `fixed` and `per_token` for each token.
struct Machine {
  absl::Duration fixed;
  absl::Duration per_token;

  absl::Duration Step(int tokens) const { return fixed + tokens * per_token; }
};

// A small model: 0.1 ms and 34 us a token, 17.5 ms for 512 of them.
constexpr Machine kSmall{absl::Microseconds(100), absl::Microseconds(34)};
// One whose weights alone take 25 ms to read.
constexpr Machine kLarge{absl::Milliseconds(25), absl::Milliseconds(2)};

// Runs `steps` steps of `streams` and of as many prompt tokens as are allowed.
// Returns the most of the last three: now and then a step is short.
int RunSteps(const Machine& machine, int streams, int most, int steps,
             StepTime* time) {
  int prompt = 0;
  for (int i = 0; i < steps; ++i) {
    const int allowed = time->PromptTokens(streams, most);
    if (i + 3 >= steps) prompt = std::max(prompt, allowed);
    time->Observe(streams + allowed, machine.Step(streams + allowed));
  }
  return prompt;
}

TEST(StepTime, KeepsStepsBesideStreamsNearTheTarget) {
  StepTime time(kTarget);
  const int prompt = RunSteps(kSmall, /*streams=*/4, 512, 20, &time);
  const absl::Duration step = kSmall.Step(4 + prompt);
  EXPECT_LE(step, 1.1 * kTarget);
  EXPECT_GE(step, 0.9 * kTarget);
}

TEST(StepTime, LearnsWithinFewStepsOfAPromptThatCameToRunningStreams) {
  StepTime time(kTarget);
  for (int i = 0; i < 1000; ++i) time.Observe(1, kSmall.Step(1));
  RunSteps(kSmall, /*streams=*/1, 512, 3, &time);
  EXPECT_LE(kSmall.Step(1 + time.PromptTokens(1, 512)), 1.2 * kTarget);
  // And still knows after many steps that were all alike.
  for (int i = 0; i < 100000; ++i) time.Observe(1, kSmall.Step(1));
  const absl::Duration step = kSmall.Step(1 + time.PromptTokens(1, 512));
  EXPECT_LE(step, 1.2 * kTarget);
  EXPECT_GE(step, 0.8 * kTarget);
}

TEST(StepTime, LetsPromptsTakeAsLongAsTheStreamsWhenThoseAreSlow) {
  StepTime time(kTarget);
  const int prompt = RunSteps(kLarge, /*streams=*/8, 512, 20, &time);
  const absl::Duration alone = kLarge.Step(8);
  EXPECT_LE(kLarge.Step(8 + prompt), 2.1 * alone);
  EXPECT_GE(kLarge.Step(8 + prompt), 1.8 * alone);
}

TEST(StepTime, ReadsPromptsInLargeStepsWhenNoStreamRuns) {
  StepTime small(kTarget);
  // All of the batch, which takes less than ten targets.
  EXPECT_EQ(RunSteps(kSmall, /*streams=*/0, 512, 10, &small), 512);
  EXPECT_NEAR(RunSteps(kSmall, /*streams=*/0, 1 << 20, 20, &small), 1470, 150);
  StepTime large(kTarget);
  const int prompt = RunSteps(kLarge, /*streams=*/0, 512, 20, &large);
  EXPECT_NEAR(prompt, 7 * 25 / 2, 9);
}

// A short one that is now and then due does not make a prompt slower.
TEST(StepTime, TellsTheTimeOfPromptTokensWhateverTheNextStepIs) {
  StepTime time(kTarget);
  RunSteps(kLarge, /*streams=*/8, 512, 40, &time);
  const absl::Duration told = time.TimePerPromptToken(8, 512);
  for (int i = 0; i < 40; ++i) {
    RunSteps(kLarge, /*streams=*/8, 512, 1, &time);
    EXPECT_NEAR(time.TimePerPromptToken(8, 512) / told, 1, 0.05);
  }
}

TEST(StepTime, FollowsAMachineThatBecomesSlow) {
  StepTime time(kTarget);
  RunSteps(kSmall, /*streams=*/4, 512, 20, &time);
  const Machine slow{5 * kSmall.fixed, 5 * kSmall.per_token};
  const int prompt = RunSteps(slow, /*streams=*/4, 512, 40, &time);
  EXPECT_LE(slow.Step(4 + prompt), 1.2 * kTarget);
}

TEST(StepTime, IsNotMisledByOneStepThatWasHeldUp) {
  StepTime time(kTarget);
  const int before = RunSteps(kSmall, /*streams=*/4, 512, 20, &time);
  time.Observe(4 + before, absl::Seconds(3));
  EXPECT_GE(time.PromptTokens(4, 512), before / 2);
  EXPECT_NEAR(RunSteps(kSmall, /*streams=*/4, 512, 60, &time), before, 15);
}

TEST(StepTime, NeverHoldsPromptsBackForGood) {
  StepTime time(kTarget);
  const Machine slow{absl::ZeroDuration(), absl::Seconds(1)};
  EXPECT_EQ(RunSteps(slow, /*streams=*/4, 512, 20, &time), 16);
  EXPECT_EQ(time.PromptTokens(4, 5), 5);
}

TEST(StepTime, HasNoLimitIfTheTargetIsInfinite) {
  StepTime time(absl::InfiniteDuration());
  EXPECT_EQ(RunSteps(kLarge, /*streams=*/8, 512, 5, &time), 512);
}

TEST(StepTime, HasNoLimitWhereStepsTakeNoTime) {
  StepTime time(kTarget);
  EXPECT_EQ(RunSteps({}, /*streams=*/8, 512, 5, &time), 512);
}

TEST(StepTime, TellsWhatAStepWillTake) {
  StepTime time(kTarget);
  EXPECT_EQ(time.Expected(100), absl::ZeroDuration());
  for (int tokens : {1, 50, 7, 200, 16})
    time.Observe(tokens, kSmall.Step(tokens));
  EXPECT_NEAR(absl::ToDoubleSeconds(time.Expected(100)),
              absl::ToDoubleSeconds(kSmall.Step(100)), 1e-5);
}

// What a tenant's own tokens would take alone is half of the step, or its part.
TEST(StepTime, TellsWhatAStepMayHaveThatLeavesATenantItsShareOfTheTime) {
  StepTime time(kTarget);
  EXPECT_GE(time.TokensBeside(1, 0.5), 1e9) << "nothing is known yet";
  for (const Machine& machine : {kSmall, kLarge}) {
    StepTime learned(kTarget);
    for (int tokens = 1; tokens < 100; ++tokens) {
      learned.Observe(tokens, machine.Step(tokens));
    }
    for (const int wanted : {1, 30}) {
      for (const double share : {0.1, 0.5, 0.75, 1.0}) {
        const double tokens = learned.TokensBeside(wanted, share);
        const absl::Duration step = machine.fixed + tokens * machine.per_token;
        EXPECT_NEAR(absl::FDivDuration(machine.Step(wanted), step), share,
                    0.01);
      }
    }
  }
}

}  // namespace
}  // namespace engram
