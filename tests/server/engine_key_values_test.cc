// Models with attention layers: the blocks for keys and values that a request
// can come to need are set apart before it starts, it waits for them if it
// must, and all of them come back. The scripted model checks at every step that
// a slot's keys are those of its tokens.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "server/engine.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kBlock = kKeyValueBlockTokens;
constexpr size_t kBlockBytes = kBlock * 2 * sizeof(float);  // a key, a value

TestEngineOptions WithBlocks(int64_t blocks, int slots = 4) {
  TestEngineOptions options;
  options.has_attention = true;
  options.model.slots = slots;
  options.model.kv_bytes = blocks * kBlockBytes;
  return options;
}

// Tokens that need so many blocks, the last of them just begun.
Tokens PromptOf(int64_t blocks) { return Tokens((blocks - 1) * kBlock + 1, 1); }

class EngineKeyValues : public ::testing::Test {
 protected:
  void Start(TestEngineOptions options) {
    engine_ = std::make_unique<TestEngine>(std::move(options));
  }
  KeyValueUse use() { return engine_->model.states().key_values(); }
  void ExpectAllAvailable() {
    engine_->engine.RunOnce();
    EXPECT_EQ(use().available(), use().blocks);
  }
  void ExpectRefused(Request request,
                     const ::testing::Matcher<std::string>& message) {
    const absl::Status status = engine_->Refusal(std::move(request));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), message);
  }

  std::unique_ptr<TestEngine> engine_;
};

// --- What can never be.

TEST_F(EngineKeyValues, AcceptARequestThatNeedsJustAllBlocks) {
  Start(WithBlocks(2));
  // 60 tokens of a prompt and 4 of 5 that are sampled.
  const Request request = TestEngine::Generate(Tokens(60, 1), 5);
  EXPECT_EQ(engine_->Run(request).ids(), engine_->Expect({}, request).tokens);
  ExpectRefused(TestEngine::Generate(Tokens(60, 1), 6),
                AllOf(HasSubstr("65 tokens"), HasSubstr("768 bytes"),
                      HasSubstr("limit 512 (--kv-memory)")));
  ExpectAllAvailable();
}

TEST_F(EngineKeyValues, CountWhatTheSessionHasReadAndItsPendingToken) {
  Start(WithBlocks(2));
  ASSERT_TRUE(engine_->Run(TestEngine::Turn("a", "r1", Tokens(30, 1), 5))
                  .status()
                  .ok());
  // 35 tokens with the pending one, 20 more and 9 of 10 sampled.
  const Request fits = TestEngine::Turn("a", "r2", Tokens(20, 1), 10);
  ExpectRefused(TestEngine::Turn("a", "r3", Tokens(20, 1), 11),
                AllOf(HasSubstr("65 tokens"), HasSubstr("35 of the session"),
                      HasSubstr("20 of the prompt")));
  EXPECT_EQ(engine_->sessions.Get(Named("a"))->version, 1);
  EXPECT_TRUE(engine_->Run(fits).status().ok());
}

TEST_F(EngineKeyValues, RefuseASessionThatRamCouldNotHold) {
  TestEngineOptions options = WithBlocks(100);
  // A digest, a count and a ballast of 1024 floats.
  const size_t fixed_bytes = 2 * kStateAlignment + 4 * 1024;
  const size_t own_bytes = 1024;  // what a session takes beside its state
  options.sessions.memory_bytes = fixed_bytes + 3 * kBlockBytes + own_bytes;
  Start(options);
  ExpectRefused(
      TestEngine::Turn("a", "r", PromptOf(4), 0),
      AllOf(HasSubstr("97 tokens"),
            HasSubstr(absl::StrCat(fixed_bytes + 4 * kBlockBytes + own_bytes)),
            HasSubstr("--session-memory")));
  EXPECT_TRUE(
      engine_->Run(TestEngine::Turn("a", "r", PromptOf(3), 0)).status().ok());
  // Without a session it is never kept.
  EXPECT_TRUE(engine_->Run(TestEngine::Generate(PromptOf(4), 1)).status().ok());
}

TEST_F(EngineKeyValues, EndAScoreOfASessionThatLeavesNoRoomForIt) {
  Start(WithBlocks(2));
  engine_->Run(TestEngine::Turn("a", "r1", Tokens(40, 1), 0));
  const Reader reader = engine_->Run(TestEngine::Score("a", Tokens(25, 1)));
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(reader.status().message()), HasSubstr("65 tokens"));
  EXPECT_TRUE(
      engine_->Run(TestEngine::Score("a", Tokens(24, 1))).status().ok());
}

// --- What sessions hold.

TEST_F(EngineKeyValues, AreCountedWithTheStateInSlotAndRam) {
  Start(WithBlocks(8, /*slots=*/2));
  const auto fixed = static_cast<int64_t>(engine_->model.info().state_bytes);
  const auto block = static_cast<int64_t>(kBlockBytes);
  engine_->Run(TestEngine::Turn("a", "r1", Tokens(32, 1), 0));
  EXPECT_EQ(engine_->sessions.Get(Named("a"))->state_bytes, fixed + block);
  engine_->Run(TestEngine::Turn("a", "r2", Tokens(1, 1), 0));
  EXPECT_EQ(engine_->sessions.Get(Named("a"))->state_bytes, fixed + 2 * block);
  EXPECT_EQ(use().used, 2);
  SessionCounts counts = engine_->sessions.Counts();
  EXPECT_EQ(counts.models[0].state_bytes_in_slots, fixed + 2 * block);

  for (const char* other : {"b", "c"}) {
    engine_->Run(TestEngine::Turn(other, other, {1, 2}, 0));
  }
  ASSERT_EQ(engine_->sessions.Get(Named("a"))->tier, "ram");
  EXPECT_EQ(engine_->sessions.Get(Named("a"))->state_bytes, fixed + 2 * block);
  counts = engine_->sessions.Counts();
  EXPECT_EQ(counts.models[0].state_bytes_in_ram,
            2 * fixed + 3 * block - counts.models[0].state_bytes_in_slots +
                fixed + block);
}

TEST_F(EngineKeyValues, AreSharedByATurnAndTheStateBehindIt) {
  Start(WithBlocks(4));
  engine_->Run(TestEngine::Turn("a", "r1", Tokens(2 * kBlock, 1), 0));
  // Apart, both would need two blocks more than there are.
  Reader reader =
      engine_->Submit(TestEngine::Turn("a", "r2", Tokens(40, 1), 20));
  engine_->engine.RunOnce();
  EXPECT_EQ(engine_->engine.running(), 1);
  EXPECT_EQ(engine_->sessions.Get(Named("a"))->tier, "slot");
  EXPECT_EQ(use().available(), 0);
  engine_->RunUntilIdle();
  EXPECT_EQ(engine_->sessions.Get(Named("a"))->position, 2 * kBlock + 40 + 19);
  EXPECT_EQ(use().used, 4);
}

TEST_F(EngineKeyValues, GiveUnusedReservationsBackWithTheCommit) {
  Start(WithBlocks(8));
  engine_->script.Say(3, Tokens{9});
  Request request = TestEngine::Turn("a", "r1", {1, 2, 3}, 200);
  request.stopping.stop_token_ids = {9};
  engine_->Run(request);
  EXPECT_EQ(engine_->sessions.Get(Named("a"))->position, 3);
  EXPECT_EQ(use().available(), 7);
}

TEST_F(EngineKeyValues, ComeBackFromTurnsThatAreCancelled) {
  Start(WithBlocks(8));
  Reader reader = engine_->Submit(TestEngine::Turn("a", "r1", PromptOf(3), 99));
  engine_->engine.RunOnce();
  EXPECT_LT(use().available(), 4);
  reader.Cancel();
  engine_->RunUntilIdle();
  ExpectAllAvailable();
}

TEST_F(EngineKeyValues, ComeBackFromSessionsThatAreDeleted) {
  Start(WithBlocks(8));
  engine_->Run(TestEngine::Turn("a", "r1", PromptOf(3), 0));
  EXPECT_EQ(use().used, 3);
  ASSERT_TRUE(engine_->sessions.Delete(Named("a")).ok());
  ExpectAllAvailable();
}

// --- Waiting.

TEST_F(EngineKeyValues, MoveIdleSessionsToRamForARequestThatNeedsTheirs) {
  Start(WithBlocks(4));
  Tokens history(2 * kBlock + 1, 1);
  engine_->Run(TestEngine::Turn("idle", "r1", history, 0));
  ASSERT_EQ(use().available(), 1);
  const Request request = TestEngine::Generate(PromptOf(3), 2);
  EXPECT_EQ(engine_->Run(request).ids(), engine_->Expect({}, request).tokens);
  EXPECT_EQ(engine_->sessions.Get(Named("idle"))->tier, "ram");
  // And it goes on as if nothing had been.
  const Request next = TestEngine::Turn("idle", "r2", {5, 6}, 3);
  EXPECT_EQ(engine_->Run(next).ids(), engine_->Expect(history, next).tokens);
}

TEST_F(EngineKeyValues, LeaveIdleSessionsAloneIfTheirBlocksAreNotEnough) {
  Start(WithBlocks(5));
  engine_->Run(TestEngine::Turn("idle", "r1", PromptOf(1), 0));
  Reader first = engine_->Submit(TestEngine::Generate(PromptOf(3), 20));
  Reader second = engine_->Submit(TestEngine::Generate(PromptOf(3), 1));
  engine_->engine.RunOnce();
  EXPECT_EQ(engine_->admission.inbox().waiting(), 1);
  EXPECT_EQ(engine_->sessions.Get(Named("idle"))->tier, "slot");
  engine_->RunUntilIdle();
  second.Read();
  EXPECT_TRUE(second.status().ok()) << second.status();
}

TEST_F(EngineKeyValues, MakeARequestWaitForThoseThatRun) {
  Start(WithBlocks(4));
  Reader first = engine_->Submit(TestEngine::Generate(PromptOf(3), 30));
  Reader second = engine_->Submit(TestEngine::Generate(PromptOf(3), 2));
  engine_->engine.RunOnce();
  EXPECT_EQ(engine_->engine.running(), 1);
  EXPECT_EQ(engine_->admission.inbox().waiting(), 1);
  engine_->RunUntilIdle();
  for (Reader* reader : {&first, &second}) {
    reader->Read();
    EXPECT_TRUE(reader->status().ok()) << reader->status();
  }
  EXPECT_EQ(engine_->ended.size(), 2u);
  ExpectAllAvailable();
}

TEST_F(EngineKeyValues, LetNobodyOvertakeTheOneThatWaits) {
  Start(WithBlocks(4));
  Reader first = engine_->Submit(TestEngine::Generate(PromptOf(3), 30));
  Request large = TestEngine::Generate(PromptOf(4), 1);
  large.request_id = "large";
  Request small = TestEngine::Generate({1}, 1);
  small.request_id = "small";
  Reader waits = engine_->Submit(large);
  Reader behind = engine_->Submit(small);
  engine_->RunUntilIdle();
  ASSERT_EQ(engine_->ended.size(), 3u);
  EXPECT_EQ(engine_->ended[1].request_id, "large");
  EXPECT_EQ(engine_->ended[2].request_id, "small");
}

TEST_F(EngineKeyValues, LetTheOneThatWaitsBeCancelledAndTimedOut) {
  Start(WithBlocks(4));
  Reader first = engine_->Submit(TestEngine::Generate(PromptOf(3), 30));
  Reader cancelled = engine_->Submit(TestEngine::Generate(PromptOf(3), 1));
  engine_->engine.RunOnce();
  cancelled.Cancel();
  engine_->engine.RunOnce();
  cancelled.Read();
  EXPECT_EQ(cancelled.status().code(), absl::StatusCode::kCancelled);

  Request late = TestEngine::Generate(PromptOf(3), 1);
  late.deadline = engine_->clock.Now() + absl::Seconds(1);
  Reader timed_out = engine_->Submit(late);
  engine_->engine.RunOnce();
  engine_->clock.Advance(absl::Seconds(2));
  engine_->engine.RunOnce();
  timed_out.Read();
  EXPECT_EQ(timed_out.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(engine_->engine.running(), 1);
}

TEST_F(EngineKeyValues, SufficeForEverySessionInTurnHoweverFewThereAre) {
  Start(WithBlocks(3, /*slots=*/2));
  std::vector<Tokens> histories(5);
  for (int turn = 0; turn < 4; ++turn) {
    for (int i = 0; i < 5; ++i) {
      const Request request = TestEngine::Turn(
          absl::StrCat("s", i), absl::StrCat("r", turn), Tokens(15, 1 + i), 4);
      const ExpectedAnswer expected = engine_->Expect(histories[i], request);
      EXPECT_EQ(engine_->Run(request).ids(), expected.tokens);
      Tokens& history = histories[i];
      history.insert(history.end(), request.prompt.begin(),
                     request.prompt.end());
      history.insert(history.end(), expected.tokens.begin(),
                     expected.tokens.end());
    }
  }
  engine_->ExpectNoSlotLost();
}

}  // namespace
}  // namespace engram
