// Copies of states that are done when the test says so: streams go on
// meanwhile, the engine waits for none of them, and what is copied is neither
// written, read nor given away before.
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "server/engine.h"
#include "tests/server/test_engine.h"
#include "tests/support/held_copies_backend.h"
#include "tests/support/named.h"

namespace engram {
namespace {

class EngineCopies : public ::testing::Test {
 protected:
  EngineCopies()
      : cpu_(std::move(MakeBackend({BackendKind::kCpu, 1}).value())),
        backend_(cpu_.get()) {}

  void Start(int slots, bool has_attention = false) {
    TestEngineOptions options = options_;
    options.model.slots = slots;
    options.model.kv_bytes = size_t{1} << 16;
    options.has_attention = has_attention;
    options.admission.stream_tokens = 4;
    options.backend = &backend_;
    engine_ = std::make_unique<TestEngine>(options);
  }
  Engine& engine() { return engine_->engine; }

  // A turn of the session that has committed. Adds a failure if it is not
  // answered as it must be.
  void RunTurn(const std::string& id) {
    Reader reader = engine_->Run(TurnOf(id));
    ExpectTurn(id, reader);
  }
  // The session's next turn.
  Request TurnOf(const std::string& id) {
    const Tokens& history = histories_[id];
    return TestEngine::Turn(id, absl::StrCat("r", history.size()),
                            {static_cast<int32_t>(history.size() % 16), 7}, 3);
  }
  void ExpectTurn(const std::string& id, const Reader& reader) {
    const Request request = TurnOf(id);
    Tokens& history = histories_[id];
    EXPECT_TRUE(reader.ended() && reader.status().ok()) << reader.status();
    EXPECT_EQ(reader.ids(), engine_->Expect(history, request).tokens);
    history.insert(history.end(), request.prompt.begin(), request.prompt.end());
    for (int32_t id : reader.ids()) history.push_back(id);
  }

  // A stream that runs from now on.
  void StartStream() {
    stream_request_ = TestEngine::Generate({9}, 900);
    stream_ = engine_->Submit(stream_request_);
    for (int i = 0; i < 3; ++i) RunOnce();
    ASSERT_GT(stream_.tokens().size(), 0);
  }
  void RunOnce() {
    engine().RunOnce();
    stream_.Read();
  }
  // Adds a failure unless every iteration brings it a token.
  void ExpectTheStreamGoesOn() {
    for (int i = 0; i < 10; ++i) {
      const size_t before = stream_.tokens().size();
      RunOnce();
      ASSERT_EQ(stream_.tokens().size(), before + 1);
    }
    EXPECT_EQ(backend_.waits(), 0) << "the engine waits for a copy";
  }
  // A turn of session "p" beside the stream that is kept as far as it gets, and
  // has stopped, since nobody reads.
  Reader SubmitPausedTurn() {
    Request request = TestEngine::Turn("p", "r", {5, 6}, 40);
    request.keep_partial = true;
    Reader paused = engine_->Submit(request);
    ExpectTheStreamGoesOn();
    return paused;
  }
  // Of its session, once it has ended.
  static Tokens HistoryOfPaused(const Reader& paused) {
    Tokens history = {5, 6};
    for (int32_t id : paused.ids()) history.push_back(id);
    return history;
  }
  // Until it has ended.
  void RunToTheEndOf(Reader* reader) {
    for (int i = 0; i < 200 && !reader->ended(); ++i) {
      RunOnce();
      reader->Read();
    }
    EXPECT_TRUE(reader->ended());
  }
  // What it has said is right, and no slot is lost.
  void EndStream() {
    backend_.LetGo();
    const Tokens expected = engine_->Expect({}, stream_request_).tokens;
    const Tokens said = stream_.ids();
    EXPECT_EQ(said, Tokens(expected.begin(), expected.begin() + said.size()));
    stream_.Cancel();
    RunOnce();
    RunOnce();
    EXPECT_TRUE(stream_.ended());
    EXPECT_EQ(engine().held_slots(), 0);
    engine_->ExpectNoSlotLost();
    EXPECT_EQ(backend_.waits(), 0) << "the engine waits for a copy";
  }
  std::string TierOf(const std::string& id) {
    return engine_->sessions.Get(Named(id))->tier;
  }

  const std::unique_ptr<Backend> cpu_;
  HeldCopiesBackend backend_;
  TestEngineOptions options_;
  std::unique_ptr<TestEngine> engine_;
  Request stream_request_;
  Reader stream_;
  std::map<std::string, Tokens> histories_;
};

class EngineCopiesOfBothKinds : public EngineCopies,
                                public ::testing::WithParamInterface<bool> {
 protected:
  void Start(int slots) { EngineCopies::Start(slots, GetParam()); }
};

TEST_P(EngineCopiesOfBothKinds, AStreamGoesOnWhileAStateMakesWay) {
  Start(2);
  RunTurn("a");
  StartStream();
  backend_.Hold();
  Reader other = engine_->Submit(TurnOf("b"));
  ExpectTheStreamGoesOn();
  EXPECT_GT(backend_.held(), 0);
  other.Read();
  EXPECT_FALSE(other.started().has_value());
  EXPECT_EQ(TierOf("a"), "slot");
  backend_.LetGo();
  RunToTheEndOf(&other);
  ExpectTurn("b", other);
  EXPECT_EQ(TierOf("a"), "ram");
  EndStream();
  RunTurn("a");
}

TEST_P(EngineCopiesOfBothKinds, AStreamGoesOnWhileAStateComesBack) {
  Start(3);
  RunTurn("a");
  RunTurn("b");
  RunTurn("c");
  StartStream();
  ASSERT_EQ(TierOf("a"), "ram");
  ASSERT_TRUE(engine_->sessions.Delete(Named("b")).ok());
  RunOnce();
  backend_.Hold();
  Reader turn = engine_->Submit(TurnOf("a"));
  ExpectTheStreamGoesOn();
  EXPECT_GT(backend_.held(), 0);
  turn.Read();
  EXPECT_TRUE(turn.started().has_value());
  EXPECT_EQ(turn.tokens().size(), 0);
  backend_.LetGo();
  RunToTheEndOf(&turn);
  ExpectTurn("a", turn);
  EndStream();
}

TEST_P(EngineCopiesOfBothKinds, AStreamGoesOnWhileAStateIsForked) {
  Start(3);
  RunTurn("a");
  StartStream();
  backend_.Hold();
  std::optional<absl::Status> forked;
  engine().Fork(*engine_->sessions.Find(Named("a")), "f",
                [&](const auto& fork) { forked = fork.status(); });
  ExpectTheStreamGoesOn();
  EXPECT_GT(backend_.held(), 0);
  EXPECT_FALSE(forked.has_value());
  // The session goes on, and its slot is nobody's before it is copied.
  histories_["f"] = histories_["a"];
  Reader turn = engine_->Submit(TurnOf("a"));
  RunToTheEndOf(&turn);
  ExpectTurn("a", turn);
  EXPECT_EQ(engine().held_slots(), 1);
  backend_.LetGo();
  RunOnce();
  ASSERT_TRUE(forked.has_value() && forked->ok());
  EndStream();
  RunTurn("f");
  RunTurn("a");
}

TEST_P(EngineCopiesOfBothKinds, AStreamGoesOnWhileAnotherIsParked) {
  Start(2);
  StartStream();
  Request request = TestEngine::Generate({5, 6}, 40);
  Reader slow = engine_->Submit(request);
  ExpectTheStreamGoesOn();  // the other one is paused
  backend_.Hold();
  Reader turn = engine_->Submit(TurnOf("a"));
  ExpectTheStreamGoesOn();
  EXPECT_GT(backend_.held(), 0);
  EXPECT_EQ(engine().parked(), 1);
  turn.Read();
  EXPECT_FALSE(turn.started().has_value());
  backend_.LetGo();
  RunToTheEndOf(&turn);
  ExpectTurn("a", turn);
  RunToTheEndOf(&slow);
  EXPECT_EQ(slow.ids(), engine_->Expect({}, request).tokens);
  EndStream();
}

TEST_P(EngineCopiesOfBothKinds, WhatIsBeingParkedCanStayInItsSlot) {
  Start(2);
  StartStream();
  const Request request = TestEngine::Generate({5, 6}, 40);
  Reader slow = engine_->Submit(request);
  ExpectTheStreamGoesOn();
  backend_.Hold();
  Reader turn = engine_->Submit(TurnOf("a"));
  RunOnce();
  ASSERT_EQ(engine().parked(), 1);
  // Nobody else wants it any more, and its reader reads.
  turn.Cancel();
  slow.Read();
  const size_t before = slow.tokens().size();
  ExpectTheStreamGoesOn();
  EXPECT_EQ(engine().parked(), 0);
  slow.Read();
  EXPECT_EQ(slow.tokens().size(), before) << "written while it is copied";
  EXPECT_EQ(engine_->sessions.Counts().parked_bytes, 0);
  backend_.LetGo();
  RunToTheEndOf(&slow);
  EXPECT_EQ(slow.ids(), engine_->Expect({}, request).tokens);
  EndStream();
}

TEST_P(EngineCopiesOfBothKinds, CommitsWhatIsBeingParkedInItsSlot) {
  Start(2);
  StartStream();
  Reader slow = SubmitPausedTurn();
  backend_.Hold();
  Reader turn = engine_->Submit(TurnOf("a"));
  RunOnce();
  ASSERT_EQ(engine().parked(), 1);
  slow.Cancel();
  RunOnce();
  slow.Read();
  EXPECT_EQ(TierOf("p"), "slot");
  ExpectTheStreamGoesOn();
  backend_.LetGo();
  RunToTheEndOf(&turn);
  ExpectTurn("a", turn);
  histories_["p"] = HistoryOfPaused(slow);
  EndStream();
  RunTurn("p");
}

TEST_P(EngineCopiesOfBothKinds, WhatIsCommittedOnItsWayIsReadWhenItHasCome) {
  Start(3);
  StartStream();
  Reader slow = SubmitPausedTurn();
  Reader first = engine_->Submit(TestEngine::Generate({1}, 40));
  Reader second = engine_->Submit(TestEngine::Generate({2}, 40));
  ExpectTheStreamGoesOn();
  ASSERT_GE(engine().parked(), 1);
  first.Cancel();
  second.Cancel();
  RunOnce();
  backend_.Hold();
  slow.Read();
  RunOnce();
  ASSERT_EQ(engine().parked(), 0);
  ASSERT_GT(backend_.held(), 0);
  slow.Cancel();
  RunOnce();
  slow.Read();
  EXPECT_EQ(TierOf("p"), "slot");
  histories_["p"] = HistoryOfPaused(slow);
  Reader turn = engine_->Submit(TurnOf("p"));
  ExpectTheStreamGoesOn();
  turn.Read();
  EXPECT_EQ(turn.tokens().size(), 0);
  backend_.LetGo();
  RunToTheEndOf(&turn);
  ExpectTurn("p", turn);
  EndStream();
}

TEST_P(EngineCopiesOfBothKinds, TheSlotOfADeletedSessionIsCopiedToItsEnd) {
  Start(2);
  RunTurn("a");
  StartStream();
  backend_.Hold();
  Reader turn = engine_->Submit(TurnOf("b"));
  RunOnce();
  ASSERT_GT(backend_.held(), 0);
  ASSERT_TRUE(engine_->sessions.Delete(Named("a")).ok());
  ExpectTheStreamGoesOn();
  EXPECT_EQ(engine().held_slots(), 1);
  turn.Read();
  EXPECT_FALSE(turn.started().has_value());
  backend_.LetGo();
  RunToTheEndOf(&turn);
  ExpectTurn("b", turn);
  EndStream();
}

TEST_P(EngineCopiesOfBothKinds, ASlotThatIsRestoredIsNobodysBefore) {
  Start(3);
  RunTurn("a");
  RunTurn("b");
  RunTurn("c");
  StartStream();
  ASSERT_TRUE(engine_->sessions.Delete(Named("b")).ok());
  RunOnce();
  backend_.Hold();
  Reader turn = engine_->Submit(TurnOf("a"));
  RunOnce();
  ASSERT_GT(backend_.held(), 0);
  turn.Cancel();
  RunOnce();
  turn.Read();
  EXPECT_EQ(turn.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(engine().held_slots(), 1);
  Reader other = engine_->Submit(TurnOf("d"));
  ExpectTheStreamGoesOn();
  other.Read();
  EXPECT_FALSE(other.started().has_value());
  backend_.LetGo();
  RunToTheEndOf(&other);
  ExpectTurn("d", other);
  EndStream();
  RunTurn("a");
}

TEST_P(EngineCopiesOfBothKinds, WhatOnlyAReaderHasIsCopiedToItWhenItHasCome) {
  Start(4);
  StartStream();
  Reader slow = SubmitPausedTurn();
  std::vector<Reader> others;
  for (int32_t i = 1; i <= 3; ++i) {
    others.push_back(engine_->Submit(TestEngine::Generate({i}, 40)));
  }
  ExpectTheStreamGoesOn();
  ASSERT_GE(engine().parked(), 1);
  for (Reader& other : others) other.Cancel();
  RunOnce();
  backend_.Hold();
  slow.Read();
  RunOnce();
  ASSERT_GT(backend_.held(), 0);
  slow.Cancel();
  RunOnce();
  slow.Read();
  ASSERT_EQ(TierOf("p"), "slot");
  const Tokens history = HistoryOfPaused(slow);
  Reader score = engine_->Submit(TestEngine::Score("p", {3, 4}));
  RunOnce();
  ASSERT_TRUE(engine_->sessions.Delete(Named("p")).ok());
  Reader fourth = engine_->Submit(TurnOf("a"));
  Reader fifth = engine_->Submit(TurnOf("b"));
  ExpectTheStreamGoesOn();
  EXPECT_GT(backend_.held(), 0);
  fifth.Read();
  EXPECT_FALSE(fifth.started().has_value());
  backend_.LetGo();
  RunToTheEndOf(&score);
  EXPECT_EQ(score.logprobs(), ExpectScore(engine_->script, history, {3, 4}));
  RunToTheEndOf(&fourth);
  ExpectTurn("a", fourth);
  RunToTheEndOf(&fifth);
  ExpectTurn("b", fifth);
  EndStream();
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutAttention, EngineCopiesOfBothKinds,
                         ::testing::Bool());

TEST_F(EngineCopies, AsManyStatesMakeWayAsAreWaitedFor) {
  Start(4);
  RunTurn("a");
  RunTurn("b");
  RunTurn("c");
  StartStream();
  backend_.Hold();
  Reader first = engine_->Submit(TestEngine::Generate({1}, 3));
  Reader second = engine_->Submit(TestEngine::Generate({2}, 3));
  RunOnce();
  EXPECT_EQ(backend_.held(), 2);
  ExpectTheStreamGoesOn();
  EXPECT_EQ(backend_.held(), 2);
  EXPECT_EQ(TierOf("c"), "slot");
  backend_.LetGo();
  RunToTheEndOf(&first);
  RunToTheEndOf(&second);
  EndStream();
}

TEST_F(EngineCopies, NoneMakesWayAheadWhileManyBytesAreOnTheirWay) {
  options_.engine.bytes_between_steps = 1;
  Start(4);
  RunTurn("a");
  RunTurn("b");
  RunTurn("c");
  StartStream();
  backend_.Hold();
  Reader first = engine_->Submit(TestEngine::Generate({1}, 3));
  Reader second = engine_->Submit(TestEngine::Generate({2}, 3));
  ExpectTheStreamGoesOn();
  EXPECT_EQ(backend_.held(), 1);
  backend_.LetGo();
  RunToTheEndOf(&first);
  RunToTheEndOf(&second);
  EndStream();
}

TEST_F(EngineCopies, AnIdleEngineWaitsForTheCopyThatSomebodyWaitsFor) {
  Start(1);
  RunTurn("a");
  backend_.Hold();
  Reader turn = engine_->Submit(TurnOf("b"));
  EXPECT_FALSE(engine().RunOnce());
  EXPECT_EQ(backend_.waits(), 0);
  engine_->admission.inbox().Close("draining");
  engine().Drain(engine_->clock.Now() + absl::Seconds(5));
  EXPECT_TRUE(engine().Run().ok());
  EXPECT_EQ(backend_.waits(), 1);
  turn.Read();
  ExpectTurn("b", turn);
}

TEST_F(EngineCopies, ACopyThatFailsEndsAllAndLosesNoSession) {
  Start(2);
  RunTurn("a");
  StartStream();
  backend_.Hold();
  Reader turn = engine_->Submit(TurnOf("b"));
  ExpectTheStreamGoesOn();
  std::optional<absl::Status> forked;
  engine().Fork(*engine_->sessions.Find(Named("a")), "f",
                [&](const auto& fork) { forked = fork.status(); });
  RunOnce();
  backend_.Fail();
  backend_.Complete(1);
  EXPECT_EQ(engine().Run().code(), absl::StatusCode::kInternal);
  stream_.Read();
  EXPECT_EQ(stream_.status().code(), absl::StatusCode::kInternal);
  turn.Read();
  EXPECT_EQ(turn.status().code(), absl::StatusCode::kInternal);
  ASSERT_TRUE(forked.has_value());
  EXPECT_EQ(forked->code(), absl::StatusCode::kInternal);
  EXPECT_EQ(TierOf("a"), "slot");
  EXPECT_EQ(engine().held_slots(), 0);
  engine_->ExpectNoSlotLost();
}

}  // namespace
}  // namespace engram
