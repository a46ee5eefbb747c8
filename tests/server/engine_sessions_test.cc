// Turns on sessions: what they commit, when they go back, and that a session
// equals one request with all its tokens, wherever its state has been.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/engine.h"
#include "tests/server/test_engine.h"
#include "tests/support/copying_backend.h"
#include "tests/support/named.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

// Runs a turn, checks it and adds its tokens to `history`.
void RunTurn(TestEngine* engine, const Request& request, Tokens* history) {
  const ExpectedAnswer expected = engine->Expect(*history, request);
  const Reader reader = engine->Run(request);
  ASSERT_TRUE(reader.status().ok()) << reader.status();
  EXPECT_EQ(reader.ids(), expected.tokens);
  history->insert(history->end(), request.prompt.begin(), request.prompt.end());
  history->insert(history->end(), expected.tokens.begin(),
                  expected.tokens.end());
}

// --- What a turn commits.

TEST(EngineSessions, FeedsThePendingTokenFirst) {
  TestEngine engine;
  Tokens history;
  RunTurn(&engine, TestEngine::Turn("a", "r1", {1, 2, 3}, 4), &history);
  EXPECT_EQ(engine.sessions.Get(Named("a"))->position, 3 + 4 - 1);
  EXPECT_TRUE(engine.sessions.Get(Named("a"))->pending_token);
  RunTurn(&engine, TestEngine::Turn("a", "r2", {5}, 4), &history);
  EXPECT_EQ(engine.sessions.Get(Named("a"))->position, 3 + 4 + 1 + 4 - 1);
  EXPECT_EQ(engine.sessions.Get(Named("a"))->version, 2);
}

TEST(EngineSessions, LeavesNothingPendingIfMaxTokensIsZero) {
  TestEngine engine;
  Tokens history;
  RunTurn(&engine, TestEngine::Turn("a", "r1", {1, 2, 3}, 2), &history);
  RunTurn(&engine, TestEngine::Turn("a", "r2", {4}, 0), &history);
  EXPECT_EQ(engine.sessions.Get(Named("a"))->position, 6);
  EXPECT_FALSE(engine.sessions.Get(Named("a"))->pending_token);
  RunTurn(&engine, TestEngine::Turn("a", "r3", {5}, 3), &history);
}

TEST(EngineSessions, KeepsAStopTokenPending) {
  TestEngineOptions options;
  options.eos_token_ids = {9};
  TestEngine engine(options);
  engine.script.Say(2, {7, 9});
  Tokens history;
  RunTurn(&engine, TestEngine::Turn("a", "r1", {1, 2}, 8), &history);
  EXPECT_EQ(history, (Tokens{1, 2, 7, 9}));
  EXPECT_EQ(engine.sessions.Get(Named("a"))->position, 3);
  EXPECT_TRUE(engine.sessions.Get(Named("a"))->pending_token);
  RunTurn(&engine, TestEngine::Turn("a", "r2", {3}, 2), &history);
}

TEST(EngineSessions, GoesOnFromAPendingTokenWithAnEmptyPrompt) {
  TestEngine engine;
  Tokens history;
  RunTurn(&engine, TestEngine::Turn("a", "r1", {1}, 3), &history);
  RunTurn(&engine, TestEngine::Turn("a", "r2", {}, 3), &history);
  RunTurn(&engine, TestEngine::Turn("a", "r3", {}, 0), &history);
  EXPECT_FALSE(engine.sessions.Get(Named("a"))->pending_token);
}

TEST(EngineSessions, TellsVersionAndPositionBeforeTheTurn) {
  TestEngine engine;
  engine.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 4));
  const Reader reader = engine.Run(TestEngine::Turn("a", "r2", {5}, 1));
  EXPECT_EQ(reader.started()->session_id, "a");
  EXPECT_EQ(reader.started()->request_id, "r2");
  EXPECT_EQ(reader.started()->version, 1);
  EXPECT_EQ(reader.started()->position, 6);
  EXPECT_EQ(reader.started()->cached_tokens, 6);
  EXPECT_EQ(reader.completed()->version, 2);
  // The pending token is not this request's.
  EXPECT_EQ(reader.completed()->usage.prompt_tokens, 1);
}

TEST(EngineSessions, EqualsOneRequestWithAllItsTokens) {
  TestEngine engine;
  Tokens history;
  for (int i = 0; i < 6; ++i) {
    Request turn = TestEngine::Turn("a", absl::StrCat("r", i), {i, 2, i}, i);
    turn.sampling.temperature = 1;
    turn.sampling.seed = 11;
    RunTurn(&engine, turn, &history);
  }
  // Also the tokens to be sampled have the same indices, so the same draws.
  Request whole = TestEngine::Generate(history, 8);
  whole.sampling.temperature = 1;
  whole.sampling.seed = 11;
  Request last = whole;
  last.session_id = "a";
  last.prompt.clear();
  EXPECT_EQ(engine.Run(last).ids(), engine.Run(whole).ids());
}

// --- Tiers.

TEST(EngineSessions, AreExactWhenThereAreMoreThanSlots) {
  TestEngineOptions options;
  options.model.slots = 3;
  TestEngine engine(options);
  std::vector<Tokens> histories(10);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 10; ++i) {
      const int session = (i * 7 + round) % 10;
      RunTurn(&engine,
              TestEngine::Turn(absl::StrCat("s", session),
                               absl::StrCat("r", round), {i, round}, 3),
              &histories[session]);
      engine.ExpectNoSlotLost();
    }
  }
  EXPECT_GT(engine.sessions.Counts().models[0].restores, 0);
}

TEST(EngineSessions, RunOnASingleSlot) {
  TestEngineOptions options;
  options.model.slots = 1;
  TestEngine engine(options);
  Tokens first;
  Tokens second;
  for (int round = 0; round < 3; ++round) {
    const std::string id = absl::StrCat("r", round);
    RunTurn(&engine, TestEngine::Turn("a", id, {1, 2}, 3), &first);
    RunTurn(&engine, TestEngine::Turn("b", id, {3}, 3), &second);
  }
  engine.ExpectNoSlotLost();
}

TEST(EngineSessions, RunBesideEachOther) {
  TestEngineOptions options;
  options.model.slots = 2;
  TestEngine engine(options);
  std::vector<Tokens> histories(6);
  for (int round = 0; round < 3; ++round) {
    std::vector<Request> turns;
    std::vector<Reader> readers;
    for (int i = 0; i < 6; ++i) {
      turns.push_back(TestEngine::Turn(absl::StrCat("s", i),
                                       absl::StrCat("r", round), {i}, 2 + i));
      readers.push_back(engine.Submit(turns.back()));
    }
    engine.RunUntilIdle();
    for (int i = 0; i < 6; ++i) {
      readers[i].Read();
      const Tokens expected = engine.Expect(histories[i], turns[i]).tokens;
      EXPECT_EQ(readers[i].ids(), expected);
      histories[i].push_back(i);
      histories[i].insert(histories[i].end(), expected.begin(), expected.end());
    }
  }
}

// --- What is moved between two steps.

TEST(EngineSessions, BeginOneByOneBesideAStreamIfTheirStatesAreLarge) {
  TestEngineOptions options;
  options.engine.bytes_between_steps = 1;
  TestEngine engine(options);
  Reader stream = engine.Submit(TestEngine::Generate({1}, 100));
  engine.engine.RunOnce();
  std::vector<Reader> others;
  for (int i = 0; i < 3; ++i) {
    others.push_back(
        engine.Submit(TestEngine::Turn(absl::StrCat("s", i), "r", {1}, 50)));
  }
  for (int running = 2; running <= 4; ++running) {
    engine.engine.RunOnce();
    EXPECT_EQ(engine.engine.running(), running);
    stream.Read();
    EXPECT_EQ(stream.tokens().size(), running);
  }
}

TEST(EngineSessions, BeginTogetherIfNoStreamWaitsForThem) {
  TestEngineOptions options;
  options.engine.bytes_between_steps = 1;
  TestEngine engine(options);
  for (int i = 0; i < 3; ++i) {
    engine.Submit(TestEngine::Turn(absl::StrCat("s", i), "r", {1}, 50));
  }
  engine.engine.RunOnce();
  EXPECT_EQ(engine.engine.running(), 3);
}

// --- What is kept for a repeat.

TEST(EngineSessions, KeepOnlyTheIdOfAnAnswerThatIsTooLong) {
  for (const size_t bytes : {size_t{1000}, size_t{100000}}) {
    TestEngineOptions options;
    options.sessions.answer_bytes = bytes;
    TestEngine engine(options);
    Request request = TestEngine::Turn("a", "r", {1}, 100);
    request.logprobs = 2;
    const Reader first = engine.Run(request);
    ASSERT_EQ(first.tokens().size(), 100);
    if (bytes == 1000) {
      EXPECT_EQ(engine.Refusal(request).code(),
                absl::StatusCode::kAlreadyExists);
    } else {
      EXPECT_EQ(engine.Recorded(request)->tokens, first.ids());
    }
    EXPECT_EQ(engine.sessions.Get(Named("a"))->version, 1);
  }
}

// --- Going back.

TEST(EngineSessions, GoBackWhenATurnIsCancelled) {
  TestEngine engine;
  Tokens history;
  RunTurn(&engine, TestEngine::Turn("a", "r1", {1, 2}, 3), &history);
  Reader turn = engine.Submit(TestEngine::Turn("a", "r2", {4}, 100));
  for (int i = 0; i < 5; ++i) engine.engine.RunOnce();
  turn.Cancel();
  engine.engine.RunOnce();
  turn.Read();
  EXPECT_EQ(turn.status().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(turn.completed().has_value());
  EXPECT_EQ(engine.sessions.Get(Named("a"))->version, 1);
  // The same request runs again from the version before.
  RunTurn(&engine, TestEngine::Turn("a", "r2", {4}, 6), &history);
  engine.ExpectNoSlotLost();
}

TEST(EngineSessions, AreGoneAgainIfTheirFirstTurnIsCancelled) {
  TestEngine engine;
  Reader turn = engine.Submit(TestEngine::Turn("a", "r1", {4}, 100));
  engine.engine.RunOnce();
  EXPECT_EQ(engine.sessions.Get(Named("a")).status().code(),
            absl::StatusCode::kNotFound);
  turn.Cancel();
  engine.engine.RunOnce();
  Request next = TestEngine::Turn("a", "r2", {4}, 1);
  next.expected_version = 0;
  EXPECT_TRUE(engine.Run(next).status().ok());
}

struct EndFromOutside {
  const char* name;
  absl::StatusCode code;
};

// Ends the turn that `reader` reads, as `how.code` says.
void EndTurn(TestEngine* engine, const EndFromOutside& how, Reader* reader) {
  if (how.code == absl::StatusCode::kCancelled) reader->Cancel();
  if (how.code == absl::StatusCode::kDeadlineExceeded) {
    engine->clock.Advance(absl::Seconds(10));
  }
  if (how.code == absl::StatusCode::kUnavailable) {
    engine->engine.Drain(engine->clock.Now());
  }
  engine->engine.RunOnce();
  reader->Read();
}

class KeepPartial : public ::testing::TestWithParam<EndFromOutside> {};

TEST_P(KeepPartial, CommitsWhatWasSampled) {
  TestEngine engine;
  Request request = TestEngine::Turn("a", "r", {1, 2}, 100);
  request.keep_partial = true;
  request.deadline = engine.clock.Now() + absl::Seconds(10);
  Reader turn = engine.Submit(request);
  for (int i = 0; i < 5; ++i) engine.engine.RunOnce();
  EndTurn(&engine, GetParam(), &turn);
  EXPECT_EQ(turn.status().code(), GetParam().code);
  ASSERT_TRUE(turn.completed().has_value());
  EXPECT_EQ(turn.completed()->finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(turn.completed()->version, 1);
  EXPECT_EQ(turn.ids().size(), 5);
  EXPECT_EQ(engine.sessions.Get(Named("a"))->position, 2 + 5 - 1);
  EXPECT_EQ(engine.ended.back().finish_reason, "cancelled");

  // It is final: a repeat gets the fragment.
  request.deadline = absl::InfiniteFuture();
  const auto record = engine.Recorded(request);
  ASSERT_NE(record, nullptr);
  EXPECT_EQ(record->tokens, turn.ids());
  EXPECT_EQ(record->completed.finish_reason, FinishReason::kCancelled);
  engine.ExpectNoSlotLost();
}

TEST_P(KeepPartial, KeepsNothingUnlessAsked) {
  TestEngine engine;
  Request request = TestEngine::Turn("a", "r", {1, 2}, 100);
  request.deadline = engine.clock.Now() + absl::Seconds(10);
  Reader turn = engine.Submit(request);
  for (int i = 0; i < 5; ++i) engine.engine.RunOnce();
  EndTurn(&engine, GetParam(), &turn);
  EXPECT_EQ(turn.status().code(), GetParam().code);
  EXPECT_FALSE(turn.completed().has_value());
  EXPECT_FALSE(engine.sessions.Get(Named("a")).ok());
  engine.ExpectNoSlotLost();
}

TEST_P(KeepPartial, KeepsNothingIfNothingWasSampled) {
  TestEngine engine;
  Request request = TestEngine::Turn("a", "r", Tokens(100, 3), 100);
  request.keep_partial = true;
  request.deadline = engine.clock.Now() + absl::Seconds(10);
  Reader turn = engine.Submit(request);
  engine.engine.RunOnce();
  EndTurn(&engine, GetParam(), &turn);
  EXPECT_EQ(turn.status().code(), GetParam().code);
  EXPECT_FALSE(turn.completed().has_value());
  EXPECT_FALSE(engine.sessions.Get(Named("a")).ok());
}

INSTANTIATE_TEST_SUITE_P(
    Ends, KeepPartial,
    ::testing::Values(EndFromOutside{"Cancelled", absl::StatusCode::kCancelled},
                      EndFromOutside{"Deadline",
                                     absl::StatusCode::kDeadlineExceeded},
                      EndFromOutside{"Drain", absl::StatusCode::kUnavailable}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(EngineSessions, GoOnFromAFragmentThatWasKept) {
  TestEngine engine;
  Request request = TestEngine::Turn("a", "r1", {1, 2}, 100);
  request.keep_partial = true;
  Reader turn = engine.Submit(request);
  for (int i = 0; i < 5; ++i) engine.engine.RunOnce();
  turn.Cancel();
  engine.engine.RunOnce();
  turn.Read();
  Tokens history = {1, 2};
  for (int32_t id : turn.ids()) history.push_back(id);
  RunTurn(&engine, TestEngine::Turn("a", "r2", {}, 4), &history);
  // As if it had never been cut.
  request = TestEngine::Generate({1, 2}, 9);
  EXPECT_EQ(Tokens(history.begin() + 2, history.end()),
            engine.Expect({}, request).tokens);
}

TEST(EngineSessions, KeepNoFragmentWhenTheReaderWasTooSlow) {
  TestEngineOptions options;
  options.admission.stream_tokens = 2;
  TestEngine engine(options);
  Request request = TestEngine::Turn("a", "r1", {1, 2}, 100);
  request.keep_partial = true;
  Reader turn = engine.Submit(request);
  engine.RunUntilIdle();
  engine.clock.Advance(options.engine.slow_reader_timeout);
  engine.engine.RunOnce();
  turn.Read();
  EXPECT_EQ(turn.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(engine.sessions.Get(Named("a")).ok());
}

// --- While a turn runs.

TEST(EngineSessions, AreForkedAtTheirLastCommitWhileATurnRuns) {
  TestEngine engine;
  Tokens history;
  RunTurn(&engine, TestEngine::Turn("a", "r1", {1, 2}, 3), &history);
  engine.Submit(TestEngine::Turn("a", "r2", {4}, 20));
  for (int i = 0; i < 5; ++i) engine.engine.RunOnce();
  ASSERT_TRUE(engine.Fork("a", "b").ok());
  EXPECT_EQ(engine.sessions.Get(Named("b"))->version, 1);
  Tokens other = history;
  RunTurn(&engine, TestEngine::Turn("b", "r2", {5}, 3), &other);
  engine.RunUntilIdle();
  EXPECT_EQ(engine.sessions.Get(Named("a"))->version, 2);
}

TEST(EngineSessions, AreForkedFromRam) {
  TestEngineOptions options;
  options.model.slots = 1;
  TestEngine engine(options);
  Tokens history;
  RunTurn(&engine, TestEngine::Turn("a", "r1", {1, 2}, 3), &history);
  engine.Run(TestEngine::Turn("other", "r", {1}, 1));
  ASSERT_EQ(engine.sessions.Get(Named("a"))->tier, "ram");
  ASSERT_TRUE(engine.Fork("a", "b").ok());
  Tokens other = history;
  RunTurn(&engine, TestEngine::Turn("b", "r1", {5}, 3), &other);
  RunTurn(&engine, TestEngine::Turn("a", "r2", {6}, 3), &history);
}

TEST(EngineSessions, AreForkedWhenEmpty) {
  TestEngine engine;
  ASSERT_TRUE(engine.sessions.Create(EmptySession("a")).ok());
  ASSERT_TRUE(engine.Fork("a", "b").ok());
  Tokens history;
  RunTurn(&engine, TestEngine::Turn("b", "r1", {5}, 3), &history);
}

// --- Checkpoints.

// As Sessions.Checkpoint does it.
void MakeCheckpoint(TestEngine* engine, const std::string& session_id,
                    const std::string& checkpoint_id) {
  const SessionHandle source = *engine->sessions.Find(Named(session_id));
  const auto snapshot = engine->StateOf(source);
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  const auto made = engine->sessions.InstallCheckpoint(
      source, {.id = checkpoint_id}, snapshot->turns, snapshot->block);
  ASSERT_TRUE(made.ok()) << made.status();
}

Request From(const std::string& checkpoint_id, Request request) {
  request.from_checkpoint = checkpoint_id;
  return request;
}

TEST(EngineSessions, GoOnFromACheckpointAsFromTheSessionThatItIsOf) {
  TestEngine engine;
  Tokens kept;
  RunTurn(&engine, TestEngine::Turn("a", "r1", {1, 2}, 3), &kept);
  MakeCheckpoint(&engine, "a", "c");
  // What becomes of the session makes no difference.
  Tokens later = kept;
  RunTurn(&engine, TestEngine::Turn("a", "r2", {3}, 3), &later);
  ASSERT_TRUE(engine.sessions.Delete(Named("a")).ok());
  for (const std::string id : {"b", "d"}) {
    Tokens history = kept;
    RunTurn(&engine, From("c", TestEngine::Turn(id, "r1", {5}, 3)), &history);
    EXPECT_EQ(engine.sessions.Get(Named(id))->version, 2);
    RunTurn(&engine, TestEngine::Turn(id, "r2", {6}, 3), &history);
  }
  engine.ExpectNoSlotLost();
}

TEST(EngineSessions, AreNotNeededByWhatStartsFromACheckpoint) {
  TestEngine engine;
  Tokens kept;
  RunTurn(&engine, TestEngine::Turn("a", "r1", {1, 2}, 3), &kept);
  MakeCheckpoint(&engine, "a", "c");
  const Request request = TestEngine::Generate({5}, 4);
  const Reader answer = engine.Run(From("c", request));
  EXPECT_EQ(answer.ids(), engine.Expect(kept, request).tokens);
  EXPECT_EQ(answer.started()->version, 1);
  EXPECT_EQ(answer.started()->cached_tokens, 4);
  EXPECT_EQ(answer.completed()->version, 1);
  EXPECT_EQ(answer.completed()->usage.cached_tokens, 4);
  // Its pending token is enough of a prompt.
  const Request more = TestEngine::Generate({}, 4);
  EXPECT_EQ(engine.Run(From("c", more)).ids(),
            engine.Expect(kept, more).tokens);
  const Reader score = engine.Run(From("c", TestEngine::Score("", {5, 6})));
  bool broken = false;
  EXPECT_EQ(score.logprobs(),
            ExpectScore(engine.script, kept, {5, 6}, &broken));
  EXPECT_EQ(engine.sessions.List(nullptr, -1, "", 10).size(), 1);
  engine.ExpectNoSlotLost();
}

TEST(EngineSessions, EndNotFoundIfTheirCheckpointIsDeletedWhileTheyWait) {
  TestEngine engine;
  Tokens kept;
  RunTurn(&engine, TestEngine::Turn("a", "r1", {1, 2}, 3), &kept);
  MakeCheckpoint(&engine, "a", "c");
  Reader looking = engine.Submit(From("c", TestEngine::Generate({5}, 4)));
  // A turn's session has the state already.
  Reader turn = engine.Submit(From("c", TestEngine::Turn("b", "r", {5}, 4)));
  ASSERT_TRUE(engine.sessions.DeleteCheckpoint(Named("c")).ok());
  engine.RunUntilIdle();
  looking.Read();
  turn.Read();
  EXPECT_EQ(looking.status(),
            absl::NotFoundError("checkpoint \"c\" was deleted"));
  EXPECT_EQ(turn.ids(),
            engine.Expect(kept, TestEngine::Generate({5}, 4)).tokens);
  engine.ExpectNoSlotLost();
}

TEST(EngineSessions, WantAPromptAfterACheckpointWithoutAPendingToken) {
  TestEngine engine;
  engine.Run(TestEngine::Turn("a", "r1", {1, 2}, 0));
  MakeCheckpoint(&engine, "a", "c");
  const absl::Status refused =
      engine.Refusal(From("c", TestEngine::Generate({}, 4)));
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("the checkpoint has no pending token"));
}

TEST(EngineSessions, EndTheirTurnWhenDeleted) {
  TestEngine engine;
  Tokens history;
  RunTurn(&engine, TestEngine::Turn("a", "r1", {1, 2}, 3), &history);
  Reader turn = engine.Submit(TestEngine::Turn("a", "r2", {4}, 100));
  for (int i = 0; i < 5; ++i) engine.engine.RunOnce();
  ASSERT_TRUE(engine.sessions.Delete(Named("a")).ok());
  engine.engine.RunOnce();
  turn.Read();
  EXPECT_EQ(turn.status().code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(turn.status().message(), HasSubstr("deleted"));
  engine.ExpectNoSlotLost();
  EXPECT_EQ(engine.model.states().free_slots(), 4);
}

TEST(EngineSessions, EndTheirTurnWhenDeletedWhileItWaits) {
  TestEngineOptions options;
  options.model.slots = 1;
  TestEngine engine(options);
  engine.Submit(TestEngine::Generate({1}, 5));
  engine.engine.RunOnce();
  Reader turn = engine.Submit(TestEngine::Turn("a", "r", {4}, 100));
  ASSERT_TRUE(engine.sessions.Delete(Named("a")).ok());
  engine.engine.RunOnce();
  turn.Read();
  EXPECT_EQ(turn.status().code(), absl::StatusCode::kCancelled);
}

TEST(EngineSessions, EndTheirTurnWhenDeletedInItsLastStep) {
  TestEngine engine;
  Reader turn = engine.Submit(TestEngine::Turn("a", "r", {4}, 1));
  engine.model.SetDuringStep(
      [&] { engine.sessions.Delete(Named("a")).IgnoreError(); });
  engine.engine.RunOnce();
  turn.Read();
  EXPECT_EQ(turn.status().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(engine.sessions.Get(Named("a")).ok());
  engine.ExpectNoSlotLost();
}

// As another thread may delete it after the engine has looked for what is
// cancelled, and before it starts what waits.
TEST(EngineSessions, EndTheirTurnWhenDeletedJustBeforeItStarts) {
  TestEngine engine;
  Reader other = engine.Submit(TestEngine::Generate({1}, 100));
  engine.engine.RunOnce();
  Reader turn = engine.Submit(TestEngine::Turn("a", "r", {4}, 3));
  other.Cancel();
  engine.on_end = [&](const RequestSummary& summary) {
    if (summary.session_id.empty()) {
      EXPECT_TRUE(engine.sessions.Delete(Named("a")).ok());
    }
  };
  engine.engine.RunOnce();
  turn.Read();
  EXPECT_TRUE(turn.ended());
  EXPECT_EQ(turn.status().code(), absl::StatusCode::kCancelled)
      << turn.status();
  engine.ExpectNoSlotLost();
}

TEST(EngineSessions, AnswerAScoreWithNotFoundWhenDeletedWhileItWaits) {
  TestEngineOptions options;
  options.model.slots = 1;
  TestEngine engine(options);
  engine.Run(TestEngine::Turn("a", "r", {4}, 1));
  engine.Submit(TestEngine::Generate({1}, 3));
  Reader score = engine.Submit(TestEngine::Score("a", {1, 2}));
  ASSERT_TRUE(engine.sessions.Delete(Named("a")).ok());
  engine.RunUntilIdle();
  score.Read();
  EXPECT_EQ(score.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(engine.model.states().free_slots(), 1);
}

TEST(EngineSessions, StartAnewAfterDeleteWhileTheirTurnStillRuns) {
  TestEngine engine;
  engine.Submit(TestEngine::Turn("a", "r1", {4}, 100));
  engine.engine.RunOnce();
  ASSERT_TRUE(engine.sessions.Delete(Named("a")).ok());
  Tokens history;
  RunTurn(&engine, TestEngine::Turn("a", "r1", {5}, 3), &history);
  EXPECT_EQ(engine.sessions.Get(Named("a"))->version, 1);
}

TEST(EngineSessions, ExpireAndAreMissedAloud) {
  TestEngine engine;
  engine.Run(TestEngine::Turn("a", "r1", {4}, 2));
  engine.clock.Advance(engine.options.sessions.time_to_live);
  engine.engine.RunOnce();
  const absl::Status gone = engine.Refusal(TestEngine::Turn("a", "r2", {5}, 2));
  EXPECT_EQ(gone.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(gone.message()), HasSubstr("expired"));
  engine.ExpectNoSlotLost();
  EXPECT_EQ(engine.model.states().free_slots(), 4);
}

TEST(EngineSessions, DoNotExpireWhileATurnRuns) {
  TestEngine engine;
  engine.Run(TestEngine::Turn("a", "r1", {4}, 2));
  engine.Submit(TestEngine::Turn("a", "r2", {5}, 10));
  engine.engine.RunOnce();
  engine.clock.Advance(2 * engine.options.sessions.time_to_live);
  engine.RunUntilIdle();
  EXPECT_EQ(engine.sessions.Get(Named("a"))->version, 2);
}

// --- From slot to slot.

TEST(EngineSessions, AreResumedFromTheirSlotsWithoutACopy) {
  const auto cpu = *MakeBackend({.kind = BackendKind::kCpu, .threads = 1});
  CopyingBackend backend(cpu.get());
  TestEngineOptions options;
  options.backend = &backend;
  TestEngine engine(options);
  Tokens history;
  for (int turn = 0; turn < 3; ++turn) {
    const Request request =
        TestEngine::Turn("a", absl::StrCat("r", turn), {1, 2, 3}, 4);
    const ExpectedAnswer expected = engine.Expect(history, request);
    // Two look at it while the turn runs.
    Reader reader = engine.Submit(request);
    Reader scores[2];
    for (Reader& score : scores) {
      if (turn > 0) score = engine.Submit(TestEngine::Score("a", {4, 5}));
    }
    engine.RunUntilIdle();
    reader.Read();
    EXPECT_EQ(reader.ids(), expected.tokens);
    for (Reader& score : scores) {
      if (turn == 0) continue;
      score.Read();
      EXPECT_EQ(score.logprobs(), ExpectScore(engine.script, history, {4, 5}));
    }
    history.insert(history.end(), request.prompt.begin(), request.prompt.end());
    history.insert(history.end(), expected.tokens.begin(),
                   expected.tokens.end());
  }
  EXPECT_EQ(engine.sessions.Get(Named("a"))->version, 3);
  EXPECT_EQ(backend.copies(), 0);
  engine.ExpectNoSlotLost();
}

}  // namespace
}  // namespace engram
