// Tenants that share an engine: who gets how much of its steps, and how long
// what is owed to nobody takes. On a clock and a model whose steps take a fixed
// time, so that the figures are the same everywhere.
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

// What a step takes.
struct StepCost {
  absl::Duration fixed;
  absl::Duration per_token;
};
constexpr StepCost kOnlyTokens{absl::ZeroDuration(), absl::Microseconds(100)};
constexpr StepCost kMostlyFixed{absl::Milliseconds(10), absl::Microseconds(10)};

TestEngineOptions Options(int slots, int max_batch_tokens) {
  TestEngineOptions options;
  options.model = {.slots = slots,
                   .max_batch_tokens = max_batch_tokens,
                   .max_logits_rows = slots + 64};
  options.admission.max_prompt_tokens = 1 << 20;
  return options;
}

// Clients of one tenant that always have so many calls open.
class Clients {
 public:
  Clients(TestEngine* engine, const TenantHandle& tenant, Request request,
          int calls)
      : engine_(*engine), request_(std::move(request)), readers_(calls) {
    request_.tenant = tenant;
    for (Reader& reader : readers_) reader = engine_.Submit(request_);
  }

  // Reads all there is, and asks anew where a call has ended.
  void Read() {
    for (Reader& reader : readers_) {
      const size_t before = reader.tokens().size();
      reader.Read();
      tokens_ += static_cast<int64_t>(reader.tokens().size() - before);
      if (!reader.ended()) continue;
      EXPECT_TRUE(reader.status().ok()) << reader.status();
      // The last one that it drew is not fed.
      tokens_ += static_cast<int64_t>(request_.prompt.size()) - 1;
      reader = engine_.Submit(request_);
    }
  }
  void Stop() {
    for (Reader& reader : readers_) reader.Cancel();
    readers_.clear();
  }
  // Fed: those told, and prompts that were fed whole.
  int64_t tokens() const { return tokens_; }
  int64_t TakeTokens() { return std::exchange(tokens_, 0); }

 private:
  TestEngine& engine_;
  Request request_;
  std::vector<Reader> readers_;
  int64_t tokens_ = 0;
};

Request Stream() { return TestEngine::Generate({1}, 1 << 19); }
Request Prompt(int tokens) {
  return TestEngine::Generate(Tokens(tokens, 1), 1);
}

class EngineTenantsTest : public ::testing::Test {
 protected:
  TestEngine& Start(const TestEngineOptions& options, const StepCost& cost) {
    engine_ = std::make_unique<TestEngine>(options);
    for (int device = 0; device < options.devices; ++device) {
      ScriptedModel& model = engine_->model_of(device);
      model.SetDuringStep([this, cost, &model] {
        int tokens = 0;
        for (const auto& row : model.last_step()) tokens += row.tokens;
        engine_->clock.Advance(cost.fixed + tokens * cost.per_token);
        ++steps_;
      });
    }
    return *engine_;
  }
  Clients& Add(const TenantHandle& tenant, Request request, int calls) {
    clients_.push_back(std::make_unique<Clients>(engine_.get(), tenant,
                                                 std::move(request), calls));
    return *clients_.back();
  }
  static TenantHandle Named(const std::string& name, int number,
                            const TenantLimits& limits = {}) {
    auto tenant = std::make_shared<Tenant>(name, number);
    tenant->SetLimits(limits);
    return tenant;
  }
  // For so long, as an engine's thread does it. Returns the steps there were.
  int64_t Run(absl::Duration time) {
    const absl::Time end = engine_->clock.Now() + time;
    const int64_t before = steps_;
    while (engine_->clock.Now() < end) {
      if (!engine_->RunOnce()) engine_->clock.Advance(absl::Milliseconds(1));
      for (const auto& clients : clients_) clients->Read();
    }
    return steps_ - before;
  }
  // What `part` has of the tokens of both.
  static double Share(const Clients& part, const Clients& other) {
    return static_cast<double>(part.tokens()) /
           static_cast<double>(part.tokens() + other.tokens());
  }

  std::unique_ptr<TestEngine> engine_;
  std::vector<std::unique_ptr<Clients>> clients_;
  int64_t steps_ = 0;
};

// --- Shares.

TEST_F(EngineTenantsTest, OneStreamHasNearlyHalfOfTheTokensBeside64) {
  Start(Options(/*slots=*/65, /*max_batch_tokens=*/128), kOnlyTokens);
  Clients& many = Add(Named("many", 1), Stream(), 64);
  Clients& one = Add(Named("one", 2), Stream(), 1);
  Run(absl::Seconds(4));
  EXPECT_GE(Share(one, many), 0.45);
  EXPECT_LE(Share(one, many), 0.55);
}

TEST_F(EngineTenantsTest, OnePromptHasNearlyHalfOfTheTokensBeside64) {
  for (const StepCost& cost : {kOnlyTokens, kMostlyFixed}) {
    clients_.clear();
    Start(Options(/*slots=*/65, /*max_batch_tokens=*/128), cost);
    Clients& many = Add(Named("many", 1), Prompt(500), 64);
    Clients& one = Add(Named("one", 2), Prompt(500), 1);
    Run(absl::Seconds(20));
    EXPECT_GE(Share(one, many), 0.45);
    EXPECT_LE(Share(one, many), 0.55);
  }
}

TEST_F(EngineTenantsTest, OnePromptHasHalfOfTheTokensBeside64Streams) {
  Start(Options(/*slots=*/65, /*max_batch_tokens=*/128), kOnlyTokens);
  Clients& many = Add(Named("many", 1), Stream(), 64);
  Clients& one = Add(Named("one", 2), Prompt(500), 1);
  Run(absl::Seconds(20));
  EXPECT_GE(Share(one, many), 0.45);
}

TEST_F(EngineTenantsTest, AStreamOfOneKeepsHalfItsPaceBesideThePromptsOf64) {
  Start(Options(/*slots=*/65, /*max_batch_tokens=*/128), kOnlyTokens);
  Clients& one = Add(Named("one", 2), Stream(), 1);
  Run(absl::Seconds(5));
  const int64_t alone = one.TakeTokens();
  Add(Named("many", 1), Prompt(500), 64);
  Run(absl::Seconds(5));
  EXPECT_GE(one.tokens(), 0.45 * alone);
}

// What somebody's single stream cannot use is not kept from the others.
TEST_F(EngineTenantsTest, ManyStreamsLoseNothingWhereTheyDelayNobody) {
  Start(Options(/*slots=*/65, /*max_batch_tokens=*/128), kMostlyFixed);
  Clients& many = Add(Named("many", 1), Stream(), 64);
  Clients& one = Add(Named("one", 2), Stream(), 1);
  const int64_t steps = Run(absl::Seconds(20));
  EXPECT_GE(one.tokens(), steps - 10);
  EXPECT_GE(many.tokens(), 0.95 * 64 * steps);
}

TEST_F(EngineTenantsTest, TokensAreSharedByWeight) {
  Start(Options(/*slots=*/32, /*max_batch_tokens=*/16), kOnlyTokens);
  Clients& heavy = Add(Named("heavy", 1, {.weight = 3}), Stream(), 16);
  Clients& light = Add(Named("light", 2), Stream(), 16);
  Run(absl::Seconds(4));
  EXPECT_NEAR(Share(heavy, light), 0.75, 0.02);
}

TEST_F(EngineTenantsTest, WhoLeavesGivesHisShareToTheOthers) {
  Start(Options(/*slots=*/65, /*max_batch_tokens=*/128), kOnlyTokens);
  Clients& many = Add(Named("many", 1), Stream(), 64);
  Run(absl::Seconds(5));
  const int64_t alone = many.TakeTokens();
  Clients& one = Add(Named("one", 2), Stream(), 1);
  Run(absl::Seconds(5));
  EXPECT_LE(many.TakeTokens(), 0.6 * alone);
  one.Stop();
  Run(absl::Seconds(5));
  EXPECT_NEAR(many.TakeTokens(), alone, 0.01 * alone);
}

TEST_F(EngineTenantsTest, AllTokensAreTheTenantsWhoIsAlone) {
  Start(Options(/*slots=*/4, /*max_batch_tokens=*/16), kOnlyTokens);
  Clients& clients = Add(Named("alone", 1, {.weight = 0.1}), Stream(), 4);
  const int64_t steps = Run(absl::Seconds(1));
  EXPECT_GE(clients.tokens(), 4 * (steps - 1));
}

// --- Slots.

TEST_F(EngineTenantsTest, OneStreamHasItsSlotSoonBesideHundredsThatWait) {
  for (const StepCost& cost : {kOnlyTokens, kMostlyFixed}) {
    clients_.clear();
    TestEngineOptions options = Options(/*slots=*/4, /*max_batch_tokens=*/128);
    Start(options, cost);
    Clients& many = Add(Named("many", 1), Stream(), 200);
    Run(absl::Milliseconds(200));
    Clients& one = Add(Named("one", 2), Stream(), 1);
    const int64_t before = steps_;
    while (one.tokens() == 0 && steps_ < before + 1000) {
      Run(absl::Milliseconds(1));
    }
    EXPECT_LE(steps_ - before, options.engine.steps_in_a_slot + 10);
    // And keeps it.
    one.TakeTokens();
    many.TakeTokens();
    const int64_t steps = Run(absl::Seconds(1));
    EXPECT_GE(one.tokens(), 0.9 * steps);
    EXPECT_GT(many.tokens(), 0.9 * steps);
  }
}

// Its streams are in few steps, but the slots are theirs in all of them.
TEST_F(EngineTenantsTest, OneStreamHasItsSlotSoonBesideSlowOnes) {
  TestEngineOptions options = Options(/*slots=*/4, /*max_batch_tokens=*/128);
  Start(options, kOnlyTokens);
  Add(Named("slow", 1, {.tokens_per_second = 4}), Stream(), 4);
  engine_->RunOnce();
  Clients& one = Add(Named("one", 2), Stream(), 1);
  int64_t plans = 0;
  while (one.tokens() == 0 && plans < 1000) {
    ++plans;
    Run(absl::Microseconds(1));
  }
  EXPECT_LE(plans, options.engine.steps_in_a_slot + 16);
}

TEST_F(EngineTenantsTest, OneSlotIsSharedByTurns) {
  Start(Options(/*slots=*/1, /*max_batch_tokens=*/128), kOnlyTokens);
  Clients& many = Add(Named("many", 1, {.weight = 1}), Stream(), 20);
  Clients& one = Add(Named("one", 2), Stream(), 1);
  Run(absl::Seconds(5));
  EXPECT_NEAR(Share(one, many), 0.5, 0.05);
}

TEST_F(EngineTenantsTest, ShortAnswersOfOneAreNotKeptWaitingByALongQueue) {
  Start(Options(/*slots=*/1, /*max_batch_tokens=*/128), kOnlyTokens);
  Clients& many = Add(Named("many", 1), TestEngine::Generate({1}, 10), 200);
  Clients& one = Add(Named("one", 2), TestEngine::Generate({1}, 10), 1);
  Run(absl::Seconds(2));
  EXPECT_NEAR(Share(one, many), 0.5, 0.05);
}

// --- Pace.

constexpr double kRate = 200;

TEST_F(EngineTenantsTest, PaceIsKeptWithin5PercentOver20Seconds) {
  for (const bool runs_ahead : {false, true}) {
    for (const int calls : {1, 64}) {
      clients_.clear();
      TestEngineOptions options = Options(64, 128);
      options.runs_ahead = runs_ahead;
      Start(options, kOnlyTokens);
      Clients& clients =
          Add(Named("paced", 1, {.tokens_per_second = kRate}), Stream(), calls);
      Run(absl::Seconds(20));
      EXPECT_NEAR(clients.tokens(), 20 * kRate, 0.05 * 20 * kRate)
          << calls << (runs_ahead ? " calls, ahead" : " calls");
    }
  }
}

TEST_F(EngineTenantsTest, PaceIsKeptOverPromptsAndDevices) {
  TestEngineOptions options = Options(4, 128);
  options.devices = 2;
  Start(options, kOnlyTokens);
  Clients& clients =
      Add(Named("paced", 1, {.tokens_per_second = kRate}), Prompt(20), 8);
  Run(absl::Seconds(20));
  EXPECT_NEAR(clients.tokens(), 20 * kRate, 0.05 * 20 * kRate);
}

TEST_F(EngineTenantsTest, PaceOfOneIsNothingToTheOthers) {
  Start(Options(65, 128), kOnlyTokens);
  Clients& free = Add(Named("free", 1), Stream(), 64);
  Run(absl::Seconds(5));
  const int64_t alone = free.TakeTokens();
  Clients& paced =
      Add(Named("paced", 2, {.tokens_per_second = kRate}), Stream(), 1);
  Run(absl::Seconds(20));
  EXPECT_NEAR(paced.tokens(), 20 * kRate, 0.05 * 20 * kRate);
  EXPECT_GE(free.tokens(), 4 * 0.9 * (alone - 5 * kRate));
}

TEST_F(EngineTenantsTest, PaceLetsAPromptOfATenantInBesideItsOwnStream) {
  Start(Options(8, 128), {absl::Milliseconds(10), absl::ZeroDuration()});
  const TenantHandle tenant = Named("paced", 1, {.tokens_per_second = 50});
  Clients& stream = Add(tenant, Stream(), 1);
  Run(absl::Seconds(2));
  Clients& prompts = Add(tenant, Prompt(20), 1);
  stream.TakeTokens();
  Run(absl::Seconds(20));
  EXPECT_GE(prompts.tokens(), 40);
  EXPECT_GE(stream.tokens(), 500);
}

// No step can slow down who waits for its own pace.
TEST_F(EngineTenantsTest, PaceOfManyShortensNoStepsOfTheOthers) {
  Start(Options(97, 128), {absl::Microseconds(500), absl::Microseconds(100)});
  Clients& free = Add(Named("free", 1), Stream(), 64);
  Run(absl::Seconds(5));
  const int64_t alone = free.TakeTokens();
  Clients& paced =
      Add(Named("paced", 2, {.tokens_per_second = 1000}), Stream(), 32);
  Run(absl::Seconds(20));
  EXPECT_NEAR(paced.tokens(), 20 * 1000, 0.05 * 20 * 1000);
  EXPECT_GE(free.tokens(), 4 * 0.8 * alone);
}

TEST_F(EngineTenantsTest, PaceIsSharedByTheStreamsOfATenant) {
  Start(Options(8, 128), kOnlyTokens);
  const TenantHandle tenant = Named("paced", 1, {.tokens_per_second = kRate});
  Clients& first = Add(tenant, Stream(), 1);
  Clients& others = Add(tenant, Stream(), 3);
  Run(absl::Seconds(20));
  EXPECT_NEAR(Share(first, others), 0.25, 0.01);
}

TEST_F(EngineTenantsTest, PaceChangesWithTheLimits) {
  Start(Options(8, 128), kOnlyTokens);
  const TenantHandle tenant = Named("paced", 1, {.tokens_per_second = kRate});
  Clients& clients = Add(tenant, Stream(), 4);
  Run(absl::Seconds(5));
  clients.TakeTokens();
  tenant->SetLimits({.tokens_per_second = 2 * kRate});
  Run(absl::Seconds(20));
  EXPECT_NEAR(clients.TakeTokens(), 40 * kRate, 0.05 * 40 * kRate);
  tenant->SetLimits({});
  const int64_t steps = Run(absl::Seconds(1));
  EXPECT_GE(clients.tokens(), 4 * (steps - 1));
}

// Nothing is run in vain, and the engine says when it may go on.
TEST_F(EngineTenantsTest, PaceThatAllowsNothingLeavesTheEngineIdle) {
  Start(Options(8, 128), kOnlyTokens);
  const TenantHandle tenant = Named("paced", 1, {.tokens_per_second = 2});
  Add(tenant, Stream(), 1);
  EXPECT_TRUE(engine_->RunOnce());
  EXPECT_FALSE(engine_->RunOnce());
  EXPECT_EQ(engine_->engine.running(), 1);
  engine_->clock.Advance(absl::Milliseconds(490));
  EXPECT_FALSE(engine_->RunOnce());
  engine_->clock.Advance(absl::Milliseconds(10));
  EXPECT_TRUE(engine_->RunOnce());
}

}  // namespace
}  // namespace engram
