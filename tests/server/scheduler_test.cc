#include "server/scheduler.h"

#include <algorithm>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/tenant_shares.h"

namespace engram {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::IsEmpty;

Candidate Prompt(int64_t tokens, int priority = 0, int64_t waited = 0) {
  return {.tokens = tokens, .priority = priority, .waited = waited};
}
Candidate Decode(int priority = 0, int64_t waited = 0) {
  return {
      .tokens = 1, .decoding = true, .priority = priority, .waited = waited};
}
Candidate Paused() { return {.tokens = 0, .decoding = true}; }
Candidate Scored(int tokens, bool logits_before = false) {
  return {.tokens = tokens,
          .logits_for_every_token = true,
          .logits_before = logits_before};
}

TEST(Scheduler, PlansNothingForNobody) {
  EXPECT_THAT(PlanStep({}, {}), IsEmpty());
}

TEST(Scheduler, TakesDecodesBeforePrompts) {
  EXPECT_THAT(PlanStep({Prompt(9), Decode(), Decode()},
                       {.max_batch_tokens = 4, .max_logits_rows = 8}),
              ElementsAre(2, 1, 1));
}

TEST(Scheduler, GivesTheRestOfTheBudgetToTheShortestPromptFirst) {
  EXPECT_THAT(PlanStep({Prompt(6), Prompt(3), Prompt(5)},
                       {.max_batch_tokens = 7, .max_logits_rows = 8}),
              ElementsAre(0, 3, 4));
}

TEST(Scheduler, GoesByArrivalAmongPromptsOfOneLength) {
  EXPECT_THAT(PlanStep({Prompt(5), Prompt(5), Prompt(5)},
                       {.max_batch_tokens = 7, .max_logits_rows = 8}),
              ElementsAre(5, 2, 0));
}

TEST(Scheduler, FeedsAShortPromptWholeBesideALongOne) {
  EXPECT_THAT(PlanStep({Prompt(1 << 20), Prompt(3)},
                       {.max_batch_tokens = 512, .max_logits_rows = 8}),
              ElementsAre(509, 3));
}

TEST(Scheduler, GoesByPriorityBeforeLength) {
  EXPECT_THAT(PlanStep({Prompt(3, -1), Prompt(9, 2), Prompt(4, 1)},
                       {.max_batch_tokens = 7, .max_logits_rows = 8}),
              ElementsAre(0, 7, 0));
}

TEST(Scheduler, KeepsAnEighthForThePromptThatCameFirstOrWasKeptOutTooLong) {
  const StepLimits limits{.max_batch_tokens = 64, .max_logits_rows = 8};
  EXPECT_THAT(PlanStep({Prompt(1000), Prompt(64), Prompt(64)}, limits),
              ElementsAre(8, 56, 0));
  EXPECT_THAT(PlanStep({Prompt(1000), Prompt(1000, -5, kSchedulerPatience),
                        Prompt(64, 3)},
                       limits),
              ElementsAre(0, 8, 56));
}

// A long prompt of the lowest priority, while short ones never end.
TEST(Scheduler, StarvesNoPromptHoweverManyShortOnesCome) {
  for (int budget : {1, 3, 16, 512}) {
    SCOPED_TRACE(budget);
    Candidate starved = Prompt(10000, -9);
    int64_t fed = 0;
    constexpr int kSteps = 90;
    for (int step = 0; step < kSteps; ++step) {
      const std::vector<int> plan =
          PlanStep({starved, Prompt(budget, 9), Prompt(budget, 9), Decode()},
                   {.max_batch_tokens = budget + 1, .max_logits_rows = 8});
      fed += plan[0];
      starved.waited = plan[0] > 0 ? 0 : starved.waited + 1;
    }
    EXPECT_GE(fed, kSteps * std::max(1, budget / 8) / 9);
  }
}

TEST(Scheduler, ServesDecodesByPriorityButStarvesNone) {
  std::vector<Candidate> all = {Decode(0), Decode(5), Decode(5), Decode(0)};
  std::vector<int> fed(4, 0);
  for (int step = 0; step < 100; ++step) {
    const std::vector<int> plan =
        PlanStep(all, {.max_batch_tokens = 2, .max_logits_rows = 8});
    for (size_t i = 0; i < all.size(); ++i) {
      fed[i] += plan[i];
      all[i].waited = plan[i] > 0 ? 0 : all[i].waited + 1;
    }
  }
  EXPECT_THAT(fed, Each(Ge(10)));
  EXPECT_GT(fed[1], 5 * fed[0]);
  EXPECT_GT(fed[2], 5 * fed[3]);
}

TEST(Scheduler, DoesNotKeepAPromptOutWhenDecodesFillEveryStep) {
  for (int budget = 1; budget <= 3; ++budget) {
    const StepLimits limits{.max_batch_tokens = budget, .max_logits_rows = 4};
    std::vector<Candidate> all = {Decode(), Decode(), Decode(), Prompt(9)};
    EXPECT_EQ(PlanStep(all, limits)[3], 0);
    all[3].waited = kSchedulerPatience;
    EXPECT_GE(PlanStep(all, limits)[3], 1);
  }
}

TEST(Scheduler, GivesPromptsNoMoreThanTheTimeOfAStepAllows) {
  EXPECT_THAT(
      PlanStep({Prompt(500), Decode(), Prompt(3)}, {.max_batch_tokens = 512,
                                                    .max_logits_rows = 8,
                                                    .max_prompt_tokens = 16}),
      ElementsAre(13, 1, 3));
}

TEST(Scheduler, LeavesOutWhoIsPaused) {
  EXPECT_THAT(PlanStep({Paused(), Decode(), Prompt(0)}, {}),
              ElementsAre(0, 1, 0));
}

TEST(Scheduler, StaysWithinTheLogitsRows) {
  EXPECT_THAT(PlanStep({Decode(), Decode(), Decode()},
                       {.max_batch_tokens = 8, .max_logits_rows = 2}),
              ElementsAre(1, 1, 0));
}

TEST(Scheduler, FeedsAllButTheLastTokenOfAPromptWithoutALogitsRow) {
  EXPECT_THAT(PlanStep({Decode(), Prompt(4)},
                       {.max_batch_tokens = 8, .max_logits_rows = 1}),
              ElementsAre(1, 3));
}

TEST(Scheduler, NeedsNoLogitsRowForAChunkThatIsNotTheLast) {
  EXPECT_THAT(PlanStep({Prompt(9), Decode()},
                       {.max_batch_tokens = 5, .max_logits_rows = 1}),
              ElementsAre(4, 1));
}

TEST(Scheduler, CountsALogitsRowForEveryScoredToken) {
  EXPECT_THAT(PlanStep({Scored(9), Prompt(3)},
                       {.max_batch_tokens = 16, .max_logits_rows = 6}),
              ElementsAre(5, 3));
}

TEST(Scheduler, CountsTheLogitsRowBeforeTheFirstScoredToken) {
  EXPECT_THAT(PlanStep({Scored(9, true)},
                       {.max_batch_tokens = 16, .max_logits_rows = 6}),
              ElementsAre(5));
}

TEST(Scheduler, TurnsOverWhoGoesFirstWhenNotAllDecodesFit) {
  std::vector<Candidate> five(5, Decode());
  const StepLimits limits{.max_batch_tokens = 2, .max_logits_rows = 8};
  std::vector<int> fed(5, 0);
  for (int step = 0; step < 10; ++step) {
    const std::vector<int> plan = PlanStep(five, limits);
    for (size_t i = 0; i < five.size(); ++i) {
      fed[i] += plan[i];
      five[i].waited = plan[i] > 0 ? 0 : five[i].waited + 1;
      five[i].turns += plan[i];
    }
  }
  EXPECT_THAT(fed, ElementsAre(4, 4, 4, 4, 4));
}

// Every mix of small counts: no limit is passed, and no step is left idle.
TEST(Scheduler, PassesNoLimitAndLeavesNoStepIdle) {
  const std::vector<Candidate> kinds = {Prompt(1), Prompt(7), Decode(),
                                        Paused(),  Scored(4), Scored(4, true)};
  for (int tokens = 1; tokens <= 6; ++tokens) {
    for (int rows = 2; rows <= 5; ++rows) {
      for (int mix = 0; mix < 6 * 6 * 6; ++mix) {
        std::vector<Candidate> candidates = {kinds[mix % 6], kinds[mix / 6 % 6],
                                             kinds[mix / 36]};
        candidates[mix % 3].waited = (tokens + mix) % 2 * kSchedulerPatience;
        candidates[mix / 3 % 3].priority = mix % 2;
        const std::vector<int> plan = PlanStep(
            candidates, {.max_batch_tokens = tokens, .max_logits_rows = rows});
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

// --- Chunks.

Candidate PromptAt(int64_t position, int64_t tokens, int64_t waited = 0) {
  return {.tokens = tokens, .position = position, .waited = waited};
}
StepLimits Chunked(int max_batch_tokens) {
  return {.max_batch_tokens = max_batch_tokens,
          .max_logits_rows = 128,
          .chunk_tokens = 64};
}

TEST(Scheduler, CutsPromptsBetweenChunksOfTheirSequence) {
  EXPECT_THAT(PlanStep({PromptAt(0, 1000)}, Chunked(200)), ElementsAre(192));
  EXPECT_THAT(PlanStep({PromptAt(10, 1000)}, Chunked(200)), ElementsAre(182));
  EXPECT_THAT(PlanStep({PromptAt(10, 190)}, Chunked(200)), ElementsAre(190));
  // What is left beside them is not a chunk.
  EXPECT_THAT(PlanStep({PromptAt(0, 1000), PromptAt(0, 150)}, Chunked(200)),
              ElementsAre(0, 150));
  EXPECT_THAT(PlanStep({PromptAt(20, 1000), PromptAt(0, 150)}, Chunked(200)),
              ElementsAre(44, 150));
}

TEST(Scheduler, FeedsAChunkHoweverShortAStepShallBe) {
  StepLimits limits = Chunked(512);
  limits.max_prompt_tokens = 5;
  EXPECT_THAT(PlanStep({Decode(), PromptAt(64, 1000)}, limits),
              ElementsAre(1, 64));
}

TEST(Scheduler, CutsAnywhereWhereStepsAreLessThanAChunk) {
  EXPECT_THAT(PlanStep({PromptAt(0, 1000)}, Chunked(24)), ElementsAre(24));
}

TEST(Scheduler, MakesRoomForAChunkOfWhoWasKeptOutTooLong) {
  std::vector<Candidate> candidates(100, Decode());
  candidates.push_back(PromptAt(0, 1000));
  EXPECT_EQ(PlanStep(candidates, Chunked(128)).back(), 0);
  candidates.back().waited = kSchedulerPatience;
  EXPECT_EQ(PlanStep(candidates, Chunked(128)).back(), 64);
}

TEST(Scheduler, CutsAnywhereForScoresThatHaveNoRowsForAChunk) {
  std::vector<Candidate> candidates(100, Decode());
  candidates.push_back(Scored(1000));
  EXPECT_EQ(PlanStep(candidates, Chunked(512)).back(), 0);
  candidates.back().waited = kSchedulerPatience;
  EXPECT_EQ(PlanStep(candidates, Chunked(512)).back(), 28);
}

// --- Tenants.

Candidate Of(int tenant, Candidate candidate) {
  candidate.tenant = tenant;
  return candidate;
}

TEST(Scheduler, GivesEachTenantItsShareOfStreamsAndPrompts) {
  EXPECT_THAT(PlanStep({Of(0, Decode()), Of(0, Decode()), Of(0, Decode()),
                        Of(1, Prompt(9)), Of(1, Decode())},
                       {.max_batch_tokens = 6, .max_logits_rows = 8},
                       {{.share = 2}, {.share = 4}}),
              ElementsAre(1, 1, 0, 3, 1));
}

TEST(Scheduler, GoesByPriorityWithinATenantAlone) {
  EXPECT_THAT(PlanStep({Of(0, Decode(9)), Of(0, Decode(8)), Of(1, Decode(-1)),
                        Of(1, Decode(0))},
                       {.max_batch_tokens = 2, .max_logits_rows = 8},
                       {{.share = 1}, {.share = 1}}),
              ElementsAre(1, 0, 0, 1));
}

TEST(Scheduler, GivesAwayWhatATenantLeavesOfTheStep) {
  const std::vector<Candidate> candidates = {Of(0, Decode()), Of(0, Decode()),
                                             Of(0, Decode()), Of(1, Prompt(2))};
  StepLimits limits{.max_batch_tokens = 8, .max_logits_rows = 8};
  const std::vector<StepTenant> tenants = {{.share = 1}, {.share = 7}};
  EXPECT_THAT(PlanStep(candidates, limits, tenants), ElementsAre(1, 1, 1, 2));
  // But no more than the step shall have.
  limits.max_shared_tokens = 4;
  EXPECT_THAT(PlanStep(candidates, limits, tenants), ElementsAre(1, 1, 0, 2));
}

TEST(Scheduler, FeedsNoTenantMoreThanItMay) {
  EXPECT_THAT(PlanStep({Of(0, Decode()), Of(0, Decode()), Of(0, Decode()),
                        Of(1, Prompt(20))},
                       {.max_batch_tokens = 16, .max_logits_rows = 8},
                       {{.share = 8, .most = 2}, {.share = 8, .most = 9}}),
              ElementsAre(1, 1, 0, 9));
  EXPECT_THAT(
      PlanStep({Decode(), Decode(), Prompt(9)},
               {.max_batch_tokens = 16, .max_logits_rows = 8}, {{.most = 5}}),
      ElementsAre(1, 1, 3));
}

TEST(Scheduler, LetsWhoIsOwedMostGoFirstWhereRowsAreFew) {
  const StepLimits limits{.max_batch_tokens = 16, .max_logits_rows = 4};
  const std::vector<Candidate> candidates = {Of(0, Scored(4)),
                                             Of(1, Scored(6))};
  EXPECT_THAT(PlanStep(candidates, limits, {{.share = 8}, {.share = 8}}),
              ElementsAre(4, 0));
  EXPECT_THAT(PlanStep(candidates, limits, {{.share = 8}, {.share = 12}}),
              ElementsAre(0, 4));
}

TEST(Scheduler, CutsNoChunkForAShareThatIsLess) {
  StepLimits limits = Chunked(512);
  limits.max_shared_tokens = 65;
  // What is not fed is owed, until it is a chunk.
  const auto plan = [&](double share, int64_t waited) {
    return PlanStep({Of(0, PromptAt(0, 1000, waited)), Of(1, Decode())}, limits,
                    {{.share = share}, {.share = 65 - share}});
  };
  for (int64_t waited : {int64_t{0}, kSchedulerPatience}) {
    EXPECT_THAT(plan(63, waited), ElementsAre(64, 1)) << "given away";
    EXPECT_THAT(plan(64, waited), ElementsAre(64, 1));
    limits.max_shared_tokens = 40;
    EXPECT_THAT(plan(63, waited), ElementsAre(0, 1));
    EXPECT_THAT(plan(64, waited), ElementsAre(64, 1));
    limits.max_shared_tokens = 65;
  }
}

TEST(Scheduler, LeavesNoSharedStepIdle) {
  StepLimits limits = Chunked(512);
  limits.max_shared_tokens = 10;
  EXPECT_THAT(PlanStep({Of(0, PromptAt(0, 1000)), Of(1, PromptAt(0, 1000))},
                       limits, {{.share = 5}, {.share = 6}}),
              ElementsAre(0, 512));
}

// Scores of one want all rows of all steps, and their share is never all fed.
TEST(Scheduler, StarvesNoTenantWhereRowsAreFew) {
  std::vector<Candidate> all(16, Of(0, Scored(500)));
  all.push_back(Of(1, Prompt(10)));
  TenantShares shares;
  int ended = 0;
  for (int step = 0; step < 200; ++step) {
    const std::vector<TenantDemand> demands = {
        {.tenant = 0, .tokens = 512},
        {.tenant = 1, .tokens = all.back().tokens}};
    const std::vector<double> own = shares.Share(demands, 512, 512);
    const std::vector<int> plan =
        PlanStep(all, {.max_batch_tokens = 512, .max_logits_rows = 128},
                 {{.share = own[0]}, {.share = own[1]}});
    std::vector<int64_t> fed(2);
    for (size_t i = 0; i < all.size(); ++i) {
      fed[all[i].tenant] += plan[i];
      all[i].waited = plan[i] > 0 ? 0 : all[i].waited + 1;
      all[i].tokens -= plan[i];
      if (all[i].tokens > 0) continue;
      if (all[i].tenant == 1) ++ended;
      all[i] = all[i].tenant == 0 ? Of(0, Scored(500)) : Of(1, Prompt(10));
    }
    shares.Fed(demands, fed);
  }
  EXPECT_GE(ended, 5);
}

TEST(Scheduler, StarvesNobodyOfATenant) {
  std::vector<Candidate> all(8, Of(0, Decode()));
  all.push_back(Of(0, Prompt(100000, -9)));
  all.push_back(Of(1, Decode()));
  std::vector<int> fed(all.size());
  for (int step = 0; step < 900; ++step) {
    const std::vector<int> plan = PlanStep(
        all,
        {.max_batch_tokens = 64, .max_logits_rows = 64, .max_shared_tokens = 2},
        {{.share = 1}, {.share = 1}});
    for (size_t i = 0; i < all.size(); ++i) {
      fed[i] += plan[i];
      all[i].waited = plan[i] > 0 ? 0 : all[i].waited + 1;
      all[i].turns += plan[i] > 0;
    }
  }
  EXPECT_EQ(fed.back(), 900);
  fed.pop_back();
  EXPECT_THAT(fed, Each(Ge(50)));
}

}  // namespace
}  // namespace engram
