// How requests end that do not run to their end: cancelled, late, too slow,
// broken, drained. Each ends once, with its own code, and nobody else's.
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/engine.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

TestEngineOptions Slots(int slots) {
  TestEngineOptions options;
  options.model.slots = slots;
  return options;
}

// --- Cancel and deadline.

TEST(EngineEnds, FreesTheSlotOfACancelledRequestAtTheNextStep) {
  TestEngine engine(Slots(1));
  Reader cancelled = engine.Submit(TestEngine::Generate({1}, 1000));
  Reader next = engine.Submit(TestEngine::Generate({2}, 1000));
  engine.engine.RunOnce();
  next.Read();
  EXPECT_FALSE(next.started().has_value());
  cancelled.Cancel();
  engine.engine.RunOnce();
  cancelled.Read();
  next.Read();
  EXPECT_EQ(cancelled.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(next.tokens().size(), 1);
}

TEST(EngineEnds, EndsACancelledRequestThatWaits) {
  TestEngine engine(Slots(1));
  engine.Submit(TestEngine::Generate({1}, 1000));
  engine.engine.RunOnce();
  Reader waiting = engine.Submit(TestEngine::Generate({2}, 1));
  waiting.Cancel();
  engine.engine.RunOnce();
  waiting.Read();
  EXPECT_EQ(waiting.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(engine.admission.inbox().waiting(), 0);
}

TEST(EngineEnds, EndsARunningRequestAtItsDeadline) {
  TestEngine engine;
  Request request = TestEngine::Generate({1}, 1000);
  request.deadline = engine.clock.Now() + absl::Seconds(5);
  Reader reader = engine.Submit(request);
  engine.engine.RunOnce();
  engine.engine.RunOnce();
  engine.clock.Advance(absl::Seconds(5));
  engine.engine.RunOnce();
  reader.Read();
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(Message(reader.status()), HasSubstr("after 2 tokens"));
  EXPECT_EQ(engine.model.states().free_slots(), 4);
}

TEST(EngineEnds, EndsAWaitingRequestAtItsDeadline) {
  TestEngine engine(Slots(1));
  engine.Submit(TestEngine::Generate({1}, 1000));
  engine.engine.RunOnce();
  Request request = TestEngine::Generate({1}, 1000);
  request.deadline = engine.clock.Now() + absl::Seconds(5);
  Reader waiting = engine.Submit(request);
  engine.clock.Advance(absl::Seconds(5));
  engine.engine.RunOnce();
  waiting.Read();
  EXPECT_EQ(waiting.status().code(), absl::StatusCode::kDeadlineExceeded);
}

// --- Slow readers.

TestEngineOptions ShortStreams() {
  TestEngineOptions options;
  options.admission.stream_tokens = 4;
  options.engine.slow_reader_timeout = absl::Seconds(30);
  return options;
}

TEST(EngineEnds, PausesWhoeverDoesNotReadAndNobodyElse) {
  TestEngine engine(ShortStreams());
  engine.Submit(TestEngine::Generate({1}, 10));
  const Reader other = engine.Run(TestEngine::Generate({2}, 10));
  EXPECT_EQ(other.tokens().size(), 10);
  EXPECT_EQ(engine.engine.running(), 1);
}

TEST(EngineEnds, GoesOnWhenTheReaderReads) {
  TestEngine engine(ShortStreams());
  const Request request = TestEngine::Generate({1}, 10);
  Reader slow = engine.Submit(request);
  for (int i = 0; i < 20 && !slow.ended(); ++i) {
    engine.RunUntilIdle();
    engine.clock.Advance(absl::Seconds(29));
    slow.Read(1);
    engine.engine.RunOnce();
  }
  EXPECT_TRUE(slow.ended());
  EXPECT_EQ(slow.ids(), engine.Expect({}, request).tokens);
}

TEST(EngineEnds, EndsAReaderThatIsTooSlow) {
  TestEngine engine(ShortStreams());
  Reader slow = engine.Submit(TestEngine::Generate({1}, 10));
  engine.RunUntilIdle();
  engine.clock.Advance(absl::Seconds(29));
  engine.engine.RunOnce();
  EXPECT_EQ(engine.engine.running(), 1);
  engine.clock.Advance(absl::Seconds(1));
  engine.engine.RunOnce();
  slow.Read();
  EXPECT_EQ(slow.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(slow.status()), HasSubstr("--slow-reader-timeout"));
  EXPECT_THAT(Message(slow.status()), HasSubstr("received_token_ids"));
  EXPECT_EQ(engine.model.states().free_slots(), 4);
}

TEST(EngineEnds, RunsEvenIfAStreamHoldsOneEvent) {
  TestEngineOptions options;
  options.admission.stream_tokens = 1;
  TestEngine engine(options);
  Reader reader = engine.Submit(TestEngine::Generate({1}, 5));
  for (int i = 0; i < 20; ++i) {
    engine.engine.RunOnce();
    reader.Read();
  }
  EXPECT_TRUE(reader.ended());
  EXPECT_EQ(reader.tokens().size(), 5);
}

// --- Faults.

TEST(EngineEnds, EndsOnlyTheSequenceWhoseStateBreaks) {
  TestEngine engine;
  const Request broken = TestEngine::Generate({1, 2}, 10);
  const Request sound = TestEngine::Generate({1, 3}, 10);
  const Tokens said = engine.Expect({}, broken).tokens;
  engine.script.BreakStateAfter({1, 2, said[0], said[1]});
  Reader breaking = engine.Submit(broken);
  Reader going_on = engine.Submit(sound);
  engine.RunUntilIdle();
  breaking.Read();
  going_on.Read();
  EXPECT_EQ(breaking.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(Message(breaking.status()), HasSubstr("NaN"));
  EXPECT_EQ(breaking.ids(), Tokens(said.begin(), said.begin() + 2));
  EXPECT_EQ(going_on.ids(), engine.Expect({}, sound).tokens);
  // The slot is as good as new.
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(engine.Run(sound).ids(), engine.Expect({}, sound).tokens);
  }
}

TEST(EngineEnds, GoesBackAndKeepsNothingWhenAStateBreaks) {
  TestEngine engine;
  Request request = TestEngine::Turn("a", "r", {1, 2}, 10);
  request.keep_partial = true;
  const Tokens said = engine.Expect({}, request).tokens;
  engine.script.BreakStateAfter({1, 2, said[0], said[1]});
  EXPECT_EQ(engine.Run(request).status().code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(engine.sessions.Get(Named("a")).ok());
}

// Neither draws a token, which would have to come from logits that are NaN.
TEST(EngineEnds, CommitsNoPromptThatBreaksTheState) {
  TestEngine engine;
  engine.script.BreakStateAfter({1, 2});
  const Reader reader = engine.Run(TestEngine::Turn("a", "r", {1, 2}, 0));
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(engine.sessions.Get(Named("a")).ok());
}

TEST(EngineEnds, ScoresNothingAfterAStateThatBreaks) {
  TestEngine engine;
  engine.script.BreakStateAfter({1, 2});
  const Reader reader = engine.Run(TestEngine::Score("", {1, 2, 3}));
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kInternal);
}

TEST(EngineEnds, EndsASequenceThatHasNoTokenToDraw) {
  TestEngine engine;
  engine.script.BreakLogitsAfter({1, 2});
  Reader broken = engine.Submit(TestEngine::Generate({1, 2}, 10));
  Reader sound = engine.Submit(TestEngine::Generate({1, 3}, 10));
  engine.RunUntilIdle();
  broken.Read();
  sound.Read();
  EXPECT_EQ(broken.status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(broken.tokens().size(), 0);
  EXPECT_EQ(sound.tokens().size(), 10);
}

TEST(EngineEnds, EndsEverythingWhenTheDeviceFails) {
  TestEngine engine(Slots(2));
  engine.Run(TestEngine::Turn("a", "r1", {1}, 2));
  Request turn = TestEngine::Turn("a", "r2", {2}, 100);
  turn.keep_partial = true;
  std::vector<Reader> readers;
  readers.push_back(engine.Submit(turn));
  readers.push_back(engine.Submit(TestEngine::Generate({3}, 100)));
  readers.push_back(engine.Submit(TestEngine::Generate({4}, 100)));
  engine.engine.RunOnce();
  engine.model.FailStep(3);
  engine.RunUntilIdle();
  for (Reader& reader : readers) {
    reader.Read();
    EXPECT_EQ(reader.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(Message(reader.status()), HasSubstr("the device is on fire"));
  }
  // Nothing is kept, and nobody is let in.
  EXPECT_EQ(engine.sessions.Get(Named("a"))->version, 1);
  const absl::Status refusal = engine.Refusal(TestEngine::Generate({1}, 1));
  EXPECT_EQ(refusal.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(refusal), HasSubstr("the device is on fire"));
}

TEST(EngineEnds, RunReturnsWhyTheDeviceFailed) {
  TestEngine engine;
  engine.Submit(TestEngine::Generate({1}, 100));
  engine.model.FailStep(5);
  const absl::Status status = engine.engine.Run();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(engine.admission.inbox().Post([] {}).code(),
            absl::StatusCode::kUnavailable);
}

// Each number of steps before the failure, until the run succeeds.
TEST(EngineEnds, LosesNothingWhicheverStepFails) {
  for (int64_t step = 1;; ++step) {
    SCOPED_TRACE(step);
    TestEngine engine(Slots(2));
    engine.model.FailStep(step);
    std::vector<Reader> readers;
    for (int i = 0; i < 4; ++i) {
      readers.push_back(engine.Submit(TestEngine::Turn(
          absl::StrCat("s", i), "r", Tokens(10 * i + 1, i), 3)));
    }
    engine.RunUntilIdle();
    bool all_good = true;
    for (Reader& reader : readers) {
      reader.Read();
      EXPECT_TRUE(reader.ended());
      all_good = all_good && reader.status().ok();
    }
    EXPECT_EQ(engine.ended.size(), readers.size());
    EXPECT_EQ(engine.engine.running(), 0);
    engine.ExpectNoSlotLost();
    if (all_good) break;
  }
}

// --- Drain.

TEST(EngineEnds, FinishesWhatItHasWhenDrained) {
  TestEngine engine(Slots(1));
  Reader running = engine.Submit(TestEngine::Generate({1}, 10));
  Reader waiting = engine.Submit(TestEngine::Generate({2}, 10));
  engine.engine.RunOnce();
  engine.admission.inbox().Close("the server is stopping");
  engine.engine.Drain(engine.clock.Now() + absl::Seconds(30));
  EXPECT_TRUE(engine.engine.Run().ok());
  running.Read();
  waiting.Read();
  EXPECT_TRUE(running.status().ok() && running.ended());
  EXPECT_TRUE(waiting.status().ok() && waiting.ended());
}

TEST(EngineEnds, EndsWhatIsLeftAtTheEndOfADrain) {
  TestEngine engine(Slots(1));
  Reader running = engine.Submit(TestEngine::Generate({1}, 1000));
  Reader waiting = engine.Submit(TestEngine::Generate({2}, 1000));
  engine.engine.RunOnce();
  engine.admission.inbox().Close("the server is stopping");
  engine.engine.Drain(engine.clock.Now() + absl::Seconds(30));
  engine.model.SetDuringStep([&] { engine.clock.Advance(absl::Seconds(1)); });
  EXPECT_TRUE(engine.engine.Run().ok());
  running.Read();
  waiting.Read();
  EXPECT_EQ(running.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(waiting.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(running.tokens().size(), 31);
  engine.ExpectNoSlotLost();
}

TEST(EngineEnds, DrainsHoweverManyTasksWait) {
  TestEngineOptions options;
  options.admission.max_queue = 1;
  TestEngine engine(options);
  Reader running = engine.Submit(TestEngine::Generate({1}, 1000));
  engine.engine.RunOnce();
  bool ran = false;
  ASSERT_TRUE(engine.admission.inbox().Post([&] { ran = true; }).ok());
  ASSERT_FALSE(engine.admission.inbox().Post([] {}).ok());
  engine.admission.inbox().Close("the server is stopping");
  engine.engine.Drain(engine.clock.Now());
  engine.engine.RunOnce();
  running.Read();
  EXPECT_TRUE(ran);
  EXPECT_EQ(running.status().code(), absl::StatusCode::kUnavailable);
}

// --- Order.

TEST(EngineEnds, StartsByPriorityThenArrival) {
  TestEngine engine(Slots(1));
  engine.Submit(TestEngine::Generate({1}, 2));
  engine.engine.RunOnce();
  const auto submit = [&](const std::string& id, int priority) {
    Request request = TestEngine::Generate({1}, 1);
    request.request_id = id;
    request.priority = priority;
    engine.Submit(request);
  };
  submit("low", -1);
  submit("first", 0);
  submit("second", 0);
  submit("high", 5);
  engine.RunUntilIdle();
  std::vector<std::string> order;
  for (const RequestSummary& one : engine.ended)
    order.push_back(one.request_id);
  EXPECT_THAT(
      order, testing::ElementsAre("request", "high", "first", "second", "low"));
}

TEST(EngineEnds, StarvesNobodyWhenDecodesDoNotFitAStep) {
  TestEngineOptions options;
  options.model = {.slots = 8, .max_batch_tokens = 3, .max_logits_rows = 4};
  options.admission.stream_tokens = 4;
  TestEngine engine(options);
  std::vector<Reader> readers;
  for (int i = 0; i < 8; ++i) {
    readers.push_back(engine.Submit(TestEngine::Generate({i}, 1000)));
  }
  // Until all have begun and are paused; then they go on all at once.
  engine.RunUntilIdle();
  for (int i = 0; i < 80; ++i) {
    for (Reader& reader : readers) reader.Read();
    engine.engine.RunOnce();
  }
  for (Reader& reader : readers) {
    reader.Read();
    // Started and three tokens, and a fair share of 80 * 3.
    EXPECT_NEAR(reader.tokens().size(), 3 + 80 * 3 / 8, 2);
  }
}

// --- What is true once the client knows the end.

// What a reader finds at the very moment at which it is told the end.
struct AtTheEnd {
  int free_slots = -1;
  size_t reported = 0;
  absl::Status next_turn = absl::UnknownError("not asked");
};

// Reads on the engine's thread, as a call's reactor does, and looks around when
// Completed comes.
AtTheEnd WhenCompletedComes(TestEngine* engine, const Request& request,
                            bool cancel) {
  absl::StatusOr<Admission::Admitted> admitted =
      engine->admission.Submit(request);
  EXPECT_TRUE(admitted.ok()) << admitted.status();
  const auto stream = std::get<std::shared_ptr<TokenStream>>(*admitted);
  AtTheEnd end;
  const auto read = [&] {
    Event event;
    absl::Status status;
    while (stream->Pop(&event, &status) == TokenStream::State::kEvent) {
      if (!std::holds_alternative<CompletedEvent>(event)) continue;
      end.free_slots = engine->model.states().free_slots();
      end.reported = engine->ended.size();
      if (request.session_id.empty()) continue;
      end.next_turn =
          engine->admission
              .Submit(TestEngine::Turn(request.session_id, "next", {1}, 1))
              .status();
    }
  };
  stream->SetReady(read);
  read();
  engine->engine.RunOnce();
  if (cancel) stream->Cancel(absl::CancelledError("enough"));
  engine->engine.RunOnce();
  return end;
}

TEST(EngineEnds, FreesTheSlotBeforeCompletedIsTold) {
  TestEngine engine(Slots(2));
  const AtTheEnd end =
      WhenCompletedComes(&engine, TestEngine::Generate({1}, 1), false);
  EXPECT_EQ(end.free_slots, 2);
  EXPECT_EQ(end.reported, 1);
}

TEST(EngineEnds, CommitsBeforeCompletedIsTold) {
  TestEngine engine(Slots(2));
  const AtTheEnd end =
      WhenCompletedComes(&engine, TestEngine::Turn("s", "r", {1}, 1), false);
  EXPECT_EQ(end.free_slots, 1);  // the session's
  EXPECT_EQ(end.reported, 1);
  EXPECT_TRUE(end.next_turn.ok()) << end.next_turn;
}

TEST(EngineEnds, CommitsAFragmentBeforeCompletedIsTold) {
  TestEngine engine(Slots(2));
  Request request = TestEngine::Turn("s", "r", {1}, 1000);
  request.keep_partial = true;
  const AtTheEnd end = WhenCompletedComes(&engine, request, true);
  EXPECT_EQ(end.free_slots, 1);
  EXPECT_EQ(end.reported, 1);
  EXPECT_TRUE(end.next_turn.ok()) << end.next_turn;
}

}  // namespace
}  // namespace engram
