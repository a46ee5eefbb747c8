#include "server/scheduler.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Candidate Prompt(int tokens) { return {.tokens = tokens}; }
Candidate Decode() { return {.tokens = 1, .decoding = true}; }
Candidate Paused() { return {.tokens = 0, .decoding = true}; }
Candidate Scored(int tokens, bool logits_before = false) {
  return {.tokens = tokens,
          .logits_for_every_token = true,
          .logits_before = logits_before};
}

TEST(Scheduler, PlansNothingForNobody) {
  EXPECT_THAT(PlanStep({}, {}, 0), IsEmpty());
  EXPECT_THAT(PlanStep({}, {}, 7), IsEmpty());
}

TEST(Scheduler, TakesDecodesBeforePrompts) {
  EXPECT_THAT(PlanStep({Prompt(9), Decode(), Decode()},
                       {.max_batch_tokens = 4, .max_logits_rows = 8}, 0),
              ElementsAre(2, 1, 1));
}

TEST(Scheduler, GivesTheRestOfTheBudgetToPromptsInOrderOfArrival) {
  EXPECT_THAT(PlanStep({Prompt(5), Prompt(5), Prompt(5)},
                       {.max_batch_tokens = 8, .max_logits_rows = 8}, 0),
              ElementsAre(5, 3, 0));
}

TEST(Scheduler, LeavesOutWhoIsPaused) {
  EXPECT_THAT(PlanStep({Paused(), Decode(), Prompt(0)}, {}, 0),
              ElementsAre(0, 1, 0));
}

TEST(Scheduler, StaysWithinTheLogitsRows) {
  EXPECT_THAT(PlanStep({Decode(), Decode(), Decode()},
                       {.max_batch_tokens = 8, .max_logits_rows = 2}, 0),
              ElementsAre(1, 1, 0));
}

TEST(Scheduler, FeedsAllButTheLastTokenOfAPromptWithoutALogitsRow) {
  EXPECT_THAT(PlanStep({Decode(), Prompt(4)},
                       {.max_batch_tokens = 8, .max_logits_rows = 1}, 0),
              ElementsAre(1, 3));
}

TEST(Scheduler, NeedsNoLogitsRowForAChunkThatIsNotTheLast) {
  EXPECT_THAT(PlanStep({Prompt(9), Decode()},
                       {.max_batch_tokens = 5, .max_logits_rows = 1}, 0),
              ElementsAre(4, 1));
}

TEST(Scheduler, CountsALogitsRowForEveryScoredToken) {
  EXPECT_THAT(PlanStep({Scored(9), Prompt(3)},
                       {.max_batch_tokens = 16, .max_logits_rows = 6}, 0),
              ElementsAre(6, 2));
}

TEST(Scheduler, CountsTheLogitsRowBeforeTheFirstScoredToken) {
  EXPECT_THAT(PlanStep({Scored(9, true)},
                       {.max_batch_tokens = 16, .max_logits_rows = 6}, 0),
              ElementsAre(5));
}

TEST(Scheduler, TurnsOverWhoGoesFirstWhenNotAllDecodesFit) {
  const std::vector<Candidate> five(5, Decode());
  const StepLimits limits{.max_batch_tokens = 2, .max_logits_rows = 8};
  EXPECT_THAT(PlanStep(five, limits, 0), ElementsAre(1, 1, 0, 0, 0));
  EXPECT_THAT(PlanStep(five, limits, 2), ElementsAre(0, 0, 1, 1, 0));
  EXPECT_THAT(PlanStep(five, limits, 4), ElementsAre(1, 0, 0, 0, 1));
  EXPECT_THAT(PlanStep(five, limits, 6), ElementsAre(0, 1, 1, 0, 0));
}

// Every mix of small counts: no limit is passed, and no step is left idle.
TEST(Scheduler, PassesNoLimitAndLeavesNoStepIdle) {
  const std::vector<Candidate> kinds = {Prompt(1), Prompt(7), Decode(),
                                        Paused(),  Scored(4), Scored(4, true)};
  for (int tokens = 1; tokens <= 6; ++tokens) {
    for (int rows = 2; rows <= 5; ++rows) {
      for (int mix = 0; mix < 6 * 6 * 6; ++mix) {
        const std::vector<Candidate> candidates = {
            kinds[mix % 6], kinds[mix / 6 % 6], kinds[mix / 36]};
        const std::vector<int> plan = PlanStep(
            candidates, {.max_batch_tokens = tokens, .max_logits_rows = rows},
            mix);
        int planned = 0;
        int logits_rows = 0;
        bool runnable = false;
        for (size_t i = 0; i < 3; ++i) {
          planned += plan[i];
          ASSERT_LE(plan[i], candidates[i].tokens);
          runnable = runnable || candidates[i].tokens > 0;
          if (plan[i] == 0) continue;
          if (candidates[i].logits_before) ++logits_rows;
          if (candidates[i].logits_for_every_token) {
            logits_rows += plan[i];
          } else if (plan[i] == candidates[i].tokens) {
            ++logits_rows;
          }
        }
        ASSERT_LE(planned, tokens);
        ASSERT_LE(logits_rows, rows);
        ASSERT_EQ(planned > 0, runnable);
      }
    }
  }
}

}  // namespace
}  // namespace engram
