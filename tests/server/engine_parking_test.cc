// Sequences that yield their slots: those that are paused when somebody waits,
// and those that matter less or are much longer. Their answers must be what
// they would have been.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/engine.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

TestEngineOptions OneSlot() {
  TestEngineOptions options;
  options.model.slots = 1;
  options.admission.stream_tokens = 4;
  options.engine.steps_in_a_slot = 4;
  options.engine.long_prompt_tokens = 100;
  return options;
}

class EngineParking : public ::testing::Test {
 protected:
  // Begins a request whose reader does not read, until it is paused.
  Reader StartPaused(const Request& request) {
    Reader reader = engine_.Submit(request);
    engine_.RunUntilIdle();
    EXPECT_EQ(engine_.engine.running(), 1);
    EXPECT_FALSE(reader.ended());
    return reader;
  }
  // Reads it to its end.
  void Finish(Reader* reader) {
    for (int i = 0; i < 1000 && !reader->ended(); ++i) {
      reader->Read();
      engine_.engine.RunOnce();
    }
    EXPECT_TRUE(reader->ended());
    EXPECT_EQ(engine_.sessions.Counts().parked_bytes, 0);
    engine_.engine.RunOnce();
    engine_.ExpectNoSlotLost();
  }
  void ExpectRight(const Request& request, const Reader& reader,
                   const Tokens& history = {}) {
    EXPECT_TRUE(reader.status().ok()) << reader.status();
    EXPECT_EQ(reader.ids(), engine_.Expect(history, request).tokens);
  }

  TestEngine engine_{OneSlot()};
};

TEST_F(EngineParking, GivesTheSlotOfAPausedSequenceToWhoeverWaits) {
  const Request paused = TestEngine::Generate({1, 2}, 20);
  Reader slow = StartPaused(paused);
  const Request other = TestEngine::Generate({3}, 10);
  ExpectRight(other, engine_.Run(other));
  EXPECT_EQ(engine_.engine.parked(), 1);
  EXPECT_EQ(engine_.engine.running(), 0);
  EXPECT_EQ(engine_.sessions.Counts().parked_bytes,
            engine_.model.info().state_bytes);
  EXPECT_EQ(engine_.sessions.Counts().ram_bytes,
            engine_.model.info().state_bytes);
  Finish(&slow);
  ExpectRight(paused, slow);
}

TEST_F(EngineParking, LeavesAPausedSequenceInItsSlotIfNobodyWaits) {
  Reader slow = StartPaused(TestEngine::Generate({1, 2}, 20));
  engine_.engine.RunOnce();
  EXPECT_EQ(engine_.engine.parked(), 0);
  Finish(&slow);
}

TEST_F(EngineParking, TakesTurnsAmongSlowReaders) {
  std::vector<Request> requests;
  std::vector<Reader> readers;
  for (int i = 0; i < 5; ++i) {
    requests.push_back(TestEngine::Generate({i, 7}, 30));
    readers.push_back(engine_.Submit(requests.back()));
  }
  for (int i = 0; i < 1000; ++i) {
    engine_.engine.RunOnce();
    readers[i % 5].Read(1);
    if (i % 3 == 0) readers[i * 7 % 5].Read(3);
  }
  for (int i = 0; i < 5; ++i) {
    Finish(&readers[i]);
    ExpectRight(requests[i], readers[i]);
  }
}

TEST_F(EngineParking, CommitsATurnThatWasParked) {
  const Request first = TestEngine::Turn("a", "r1", {1, 2, 3}, 12);
  Reader slow = StartPaused(first);
  engine_.Run(TestEngine::Turn("b", "r1", {4}, 2));
  ASSERT_EQ(engine_.engine.parked(), 1);
  Finish(&slow);
  Tokens history = {1, 2, 3};
  for (int32_t id : slow.ids()) history.push_back(id);
  const Request next = TestEngine::Turn("a", "r2", {5}, 3);
  ExpectRight(next, engine_.Run(next), history);
}

TEST_F(EngineParking, CommitsTheFragmentOfATurnThatIsCancelledWhileParked) {
  Request first = TestEngine::Turn("a", "r1", {1, 2, 3}, 12);
  first.keep_partial = true;
  Reader slow = StartPaused(first);
  // Its slot is in use when it ends.
  engine_.Submit(TestEngine::Generate({4}, 1000));
  engine_.engine.RunOnce();
  ASSERT_EQ(engine_.engine.parked(), 1);
  slow.Cancel();
  engine_.engine.RunOnce();
  slow.Read();
  EXPECT_EQ(slow.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(engine_.sessions.Get(Named("a"))->version, 1);
  EXPECT_EQ(engine_.sessions.Get(Named("a"))->tier, "ram");
  EXPECT_EQ(engine_.sessions.Counts().parked_bytes, 0);
  Tokens history = {1, 2, 3};
  for (int32_t id : slow.ids()) history.push_back(id);
  engine_.RunUntilIdle();
  const Request next = TestEngine::Turn("a", "r2", {5}, 3);
  ExpectRight(next, engine_.Run(next), history);
}

TEST_F(EngineParking, EndsAReaderThatIsTooSlowWhileItIsParked) {
  Reader slow = StartPaused(TestEngine::Turn("a", "r1", {1, 2}, 20));
  engine_.Run(TestEngine::Generate({3}, 1));
  ASSERT_EQ(engine_.engine.parked(), 1);
  engine_.clock.Advance(engine_.options.engine.slow_reader_timeout);
  engine_.engine.RunOnce();
  slow.Read();
  EXPECT_EQ(slow.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(engine_.engine.parked(), 0);
  EXPECT_EQ(engine_.sessions.Counts().parked_bytes, 0);
  EXPECT_FALSE(engine_.sessions.Get(Named("a")).ok());
}

// It made room, but not as much as a parked sequence needs to go on.
TEST_F(EngineParking, EndsAReaderThatReadsALittleAndStopsWhileItIsParked) {
  Reader slow = StartPaused(TestEngine::Turn("a", "r1", {1, 2}, 20));
  engine_.Run(TestEngine::Generate({3}, 1));
  ASSERT_EQ(engine_.engine.parked(), 1);
  slow.Read(1);
  engine_.engine.RunOnce();
  ASSERT_EQ(engine_.engine.parked(), 1);
  engine_.clock.Advance(engine_.options.engine.slow_reader_timeout);
  engine_.engine.RunOnce();
  slow.Read();
  EXPECT_EQ(slow.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(engine_.sessions.Counts().parked_bytes, 0);
}

TEST_F(EngineParking, CountsTheTimeOfAParkedReaderFromWhatItReadLast) {
  TestEngineOptions options = OneSlot();
  options.admission.stream_tokens = 8;
  TestEngine engine(options);
  const Request request = TestEngine::Generate({1, 2}, 20);
  Reader slow = engine.Submit(request);
  engine.RunUntilIdle();
  engine.Run(TestEngine::Generate({3}, 1));
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(engine.engine.parked(), 1);
    slow.Read(1);
    engine.engine.RunOnce();
    engine.clock.Advance(engine.options.engine.slow_reader_timeout -
                         absl::Seconds(1));
    engine.engine.RunOnce();
  }
  while (!slow.ended()) {
    slow.Read();
    engine.engine.RunOnce();
  }
  ExpectRight(request, slow);
}

TEST_F(EngineParking, EndsWhatIsParkedWhenTheDeviceFailsOrTheServerStops) {
  Reader slow = StartPaused(TestEngine::Generate({1, 2}, 20));
  Reader other = engine_.Submit(TestEngine::Generate({3}, 20));
  engine_.model.FailStep(2);
  engine_.RunUntilIdle();
  slow.Read();
  EXPECT_EQ(slow.status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(engine_.engine.idle());
  EXPECT_EQ(engine_.sessions.Counts().parked_bytes, 0);

  TestEngine stopping(OneSlot());
  Reader paused = stopping.Submit(TestEngine::Generate({1, 2}, 20));
  stopping.RunUntilIdle();
  stopping.Run(TestEngine::Generate({3}, 1));
  ASSERT_EQ(stopping.engine.parked(), 1);
  stopping.engine.Drain(stopping.clock.Now());
  EXPECT_TRUE(stopping.engine.Run().ok());
  paused.Read();
  EXPECT_EQ(paused.status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(EngineParking, KeepsTheSlotIfRamHasNoRoomForIt) {
  TestEngineOptions options = OneSlot();
  options.sessions.memory_bytes = 2 * engine_.model.info().state_bytes;
  TestEngine engine(options);
  const Request request = TestEngine::Generate({1, 2}, 20);
  Reader slow = engine.Submit(request);
  engine.RunUntilIdle();
  Reader other = engine.Submit(TestEngine::Generate({3}, 1));
  engine.RunUntilIdle();
  other.Read();
  EXPECT_FALSE(other.started().has_value());
  EXPECT_EQ(engine.engine.parked(), 0);
  while (!slow.ended()) {
    slow.Read();
    engine.engine.RunOnce();
  }
  engine.RunUntilIdle();
  other.Read();
  EXPECT_TRUE(other.ended());
}

TEST_F(EngineParking, GivesTheSlotOfWhatMattersLessToWhatMattersMore) {
  Request low = TestEngine::Generate({1, 2}, 40);
  low.request_id = "low";
  low.priority = -1;
  Reader reader = engine_.Submit(low);
  for (int i = 0; i < 10; ++i) {
    engine_.engine.RunOnce();
    reader.Read();
  }
  Request high = TestEngine::Generate({3}, 10);
  high.request_id = "high";
  high.priority = 1;
  Reader first = engine_.Submit(high);
  for (int i = 0; i < 12; ++i) {
    engine_.engine.RunOnce();
    first.Read();
    reader.Read();
  }
  EXPECT_TRUE(first.ended());
  ExpectRight(high, first);
  Finish(&reader);
  ExpectRight(low, reader);
}

TEST_F(EngineParking, GivesTheSlotOfALongPromptToAShortOne) {
  const Request long_one = TestEngine::Generate(Tokens(2000, 1), 3);
  Reader reader = engine_.Submit(long_one);
  for (int i = 0; i < 5; ++i) engine_.engine.RunOnce();
  const Request short_one = TestEngine::Generate({1, 2, 3}, 4);
  Reader first = engine_.Submit(short_one);
  for (int i = 0; i < 5; ++i) {
    engine_.engine.RunOnce();
    first.Read();
  }
  EXPECT_TRUE(first.ended());
  ExpectRight(short_one, first);
  Finish(&reader);
  ExpectRight(long_one, reader);
}

// Short requests that never end, each of which could have the slot.
TEST_F(EngineParking, StarvesNoLongPromptWhoseSlotOthersWant) {
  const Request long_one = TestEngine::Generate(Tokens(2000, 1), 3);
  Reader reader = engine_.Submit(long_one);
  int steps = 0;
  for (; steps < 2000 && !reader.ended(); ++steps) {
    while (engine_.admission.inbox().waiting() < 3) {
      engine_.Submit(TestEngine::Generate({1, 2}, 1));
    }
    engine_.engine.RunOnce();
    reader.Read();
  }
  ExpectRight(long_one, reader);
}

TEST_F(EngineParking, GivesKeysAndValuesBackWithTheSlot) {
  TestEngineOptions options = OneSlot();
  options.has_attention = true;
  options.model.kv_bytes = 4 * kKeyValueBlockTokens * 2 * sizeof(float);
  TestEngine engine(options);
  const Request paused = TestEngine::Turn("a", "r", Tokens(60, 3), 50);
  Reader slow = engine.Submit(paused);
  engine.RunUntilIdle();
  const Request other = TestEngine::Generate(Tokens(100, 2), 20);
  EXPECT_EQ(engine.Run(other).ids(), engine.Expect({}, other).tokens);
  ASSERT_EQ(engine.engine.parked(), 1);
  EXPECT_EQ(engine.model.states().key_values().used, 0);
  while (!slow.ended()) {
    slow.Read();
    engine.engine.RunOnce();
  }
  EXPECT_EQ(slow.ids(), engine.Expect({}, paused).tokens);
}

// Each newcomer moves two states: the one that yields and its own.
TEST_F(EngineParking, CountsWhatIsParkedAsMovedBetweenSteps) {
  TestEngineOptions options = OneSlot();
  options.model.slots = 3;
  options.engine.bytes_between_steps = 2 * engine_.model.info().state_bytes;
  TestEngine engine(options);
  Reader stream = engine.Submit(TestEngine::Generate({1}, 1000));
  std::vector<Reader> paused;
  for (int i = 0; i < 2; ++i) {
    paused.push_back(engine.Submit(TestEngine::Generate({2}, 20)));
  }
  for (int i = 0; i < 10; ++i) {
    engine.engine.RunOnce();
    stream.Read();
  }
  ASSERT_EQ(engine.engine.running(), 3);
  for (int i = 0; i < 2; ++i) engine.Submit(TestEngine::Generate({3}, 20));
  engine.engine.RunOnce();
  EXPECT_EQ(engine.engine.parked(), 1);
  EXPECT_EQ(engine.admission.inbox().waiting(), 1);
}

// --- The queue's time.

TEST_F(EngineParking, RefusesAtOnceWhatWouldWaitTooLong) {
  TestEngineOptions options = OneSlot();
  options.admission.stream_tokens = 100;
  options.admission.max_queue_time = absl::Seconds(2);
  TestEngine engine(options);
  engine.model.SetDuringStep(
      [&] { engine.clock.Advance(absl::Milliseconds(100)); });
  const Request second = TestEngine::Generate({1}, 10);
  for (int i = 0; i < 3; ++i) engine.Submit(second);
  for (int i = 0; i < 25; ++i) engine.engine.RunOnce();
  // One runs and one has started a second after the other: three would wait.
  absl::Status refusal;
  int admitted = 0;
  while (refusal.ok() && admitted < 10) {
    refusal = engine.Refusal(second);
    admitted += refusal.ok();
  }
  EXPECT_EQ(refusal.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refusal.message()),
              ::testing::HasSubstr("--max-queue-time"));
  ASSERT_TRUE(RetryAfter(refusal).has_value());
  EXPECT_GE(*RetryAfter(refusal), absl::Milliseconds(100));
  EXPECT_LE(admitted, 2);
}

TEST_F(EngineParking, EndsWhatHasWaitedTooLong) {
  TestEngineOptions options = OneSlot();
  options.admission.stream_tokens = 100;
  options.admission.max_queue_time = absl::Seconds(2);
  TestEngine engine(options);
  engine.Submit(TestEngine::Generate({1}, 1000));
  engine.engine.RunOnce();
  Reader waiting = engine.Submit(TestEngine::Turn("a", "r", {1}, 10));
  engine.clock.Advance(absl::Milliseconds(2001));
  engine.engine.RunOnce();
  waiting.Read();
  EXPECT_EQ(waiting.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(RetryAfter(waiting.status()).has_value());
  EXPECT_FALSE(engine.sessions.Get(Named("a")).ok());
}

// The last one that waits ends as it is to start. What comes an hour later has
// not waited an hour.
TEST_F(EngineParking, MeasuresNoQueueThatNobodyWaitsIn) {
  TestEngineOptions options = OneSlot();
  options.admission.stream_tokens = 100;
  options.admission.max_queue_time = absl::Seconds(2);
  TestEngine engine(options);
  engine.Run(TestEngine::Turn("a", "r", {1}, 1));
  engine.Submit(TestEngine::Generate({1}, 10));
  engine.Submit(TestEngine::Generate({2}, 10));
  Reader score = engine.Submit(TestEngine::Score("a", {3, 4}));
  while (engine.admission.inbox().waiting() > 1) engine.engine.RunOnce();
  ASSERT_TRUE(engine.sessions.Delete(Named("a")).ok());
  engine.RunUntilIdle();
  score.Read();
  ASSERT_EQ(score.status().code(), absl::StatusCode::kNotFound);
  engine.clock.Advance(absl::Hours(1));
  engine.Submit(TestEngine::Generate({1}, 50));
  engine.engine.RunOnce();
  EXPECT_EQ(engine.Refusal(TestEngine::Generate({2}, 10)), absl::OkStatus());
}

TEST_F(EngineParking, StartsWhatWaitedTooLongIfThereIsASlotAtLast) {
  TestEngineOptions options = OneSlot();
  options.admission.max_queue_time = absl::Seconds(2);
  TestEngine engine(options);
  // As when the machine stood still.
  Reader waiting = engine.Submit(TestEngine::Generate({1}, 2));
  engine.clock.Advance(absl::Seconds(9));
  engine.RunUntilIdle();
  waiting.Read();
  EXPECT_TRUE(waiting.status().ok() && waiting.ended());
}

}  // namespace
}  // namespace engram
