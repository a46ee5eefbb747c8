// What one request is answered with: every answer must equal what the script
// says for its tokens alone (ExpectAnswer), whatever it was batched with.
#include "server/engine.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/status.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"
#include "tests/support/plain_sampler.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const Tokenizer* ByteTokenizer() {
  static const Tokenizer* const tokenizer = MakeByteTokenizer().release();
  return tokenizer;
}

TestEngineOptions WithText() {
  TestEngineOptions options;
  options.vocabulary_size = kByteTokenizerIds;
  options.tokenizer = ByteTokenizer();
  options.eos_token_ids = {kEndOfText};
  return options;
}

void ExpectAnswered(const Reader& reader, const ExpectedAnswer& expected) {
  ASSERT_TRUE(reader.ended());
  ASSERT_TRUE(reader.status().ok()) << reader.status();
  EXPECT_EQ(reader.ids(), expected.tokens);
  EXPECT_EQ(reader.text(), expected.text);
  EXPECT_EQ(reader.completed()->finish_reason, expected.finish_reason);
}

Request Sampled(Request request, uint64_t seed) {
  request.sampling.temperature = 1;
  request.sampling.seed = seed;
  return request;
}

Tokens Count(int tokens) {
  Tokens ids;
  for (int i = 0; i < tokens; ++i) ids.push_back(i % 16);
  return ids;
}

// --- One request.

TEST(Engine, AnswersAsTheModelSays) {
  TestEngine engine;
  const Request request = TestEngine::Generate({1, 2, 3}, 10);
  const Reader reader = engine.Run(request);
  ExpectAnswered(reader, engine.Expect({}, request));
  EXPECT_EQ(reader.ids().size(), 10);
  engine.ExpectNoSlotLost();
}

TEST(Engine, GivesASlotBackThatIsAsGoodAsNew) {
  TestEngineOptions options;
  options.model.slots = 1;
  TestEngine engine(options);
  const Request request = TestEngine::Generate({1, 2, 3}, 10);
  engine.Run(TestEngine::Generate({4, 5}, 7));
  ExpectAnswered(engine.Run(request), engine.Expect({}, request));
}

TEST(Engine, FeedsALongPromptInChunks) {
  TestEngine engine;
  const Request request = TestEngine::Generate(Count(50), 3);
  ExpectAnswered(engine.Run(request), engine.Expect({}, request));
  // 50 in chunks of 16, then two decode steps: the last token is not fed.
  EXPECT_EQ(engine.model.steps(), 4 + 2);
}

TEST(Engine, AnswersManyBesideEachOtherAsIfAlone) {
  TestEngine engine;
  std::vector<Request> requests;
  std::vector<Reader> readers;
  for (int i = 0; i < 20; ++i) {
    requests.push_back(
        Sampled(TestEngine::Generate(Count(1 + 7 * i), 5 + i), i));
    readers.push_back(engine.Submit(requests.back()));
  }
  engine.RunUntilIdle();
  for (int i = 0; i < 20; ++i) {
    readers[i].Read();
    ExpectAnswered(readers[i], engine.Expect({}, requests[i]));
  }
}

TEST(Engine, DecodesWhileALongPromptIsFed) {
  TestEngine engine;
  Reader running = engine.Submit(TestEngine::Generate({1}, 100));
  engine.engine.RunOnce();
  engine.Submit(TestEngine::Generate(Count(60), 1));
  for (int step = 1; step <= 4; ++step) {
    engine.engine.RunOnce();
    running.Read();
    EXPECT_EQ(running.tokens().size(), 1 + step);
    EXPECT_EQ(engine.model.last_step().size(), 2);
  }
}

// A machine on which a step takes 0.1 ms and 0.1 ms for each token.
void TakeTime(TestEngine* engine) {
  engine->model.SetDuringStep([engine] {
    int tokens = 1;
    for (const auto& row : engine->model.last_step()) tokens += row.tokens;
    engine->clock.Advance(tokens * absl::Microseconds(100));
  });
}

TestEngineOptions LargeSteps() {
  TestEngineOptions options;
  options.model.max_batch_tokens = 512;
  options.model.max_logits_rows = 64;
  return options;
}

TEST(Engine, AnswersAShortPromptInTheNextStepBesideALongOne) {
  TestEngine engine(LargeSteps());
  const Request long_one = TestEngine::Generate(Count(100000), 1);
  Reader reader = engine.Submit(long_one);
  for (int i = 0; i < 5; ++i) engine.engine.RunOnce();
  Reader short_one = engine.Submit(TestEngine::Generate({1, 2, 3}, 4));
  engine.engine.RunOnce();
  short_one.Read();
  EXPECT_EQ(short_one.tokens().size(), 1);
  // The long one goes on meanwhile.
  EXPECT_EQ(engine.model.last_step().size(), 2);
  engine.RunUntilIdle();
  reader.Read();
  ExpectAnswered(reader, engine.Expect({}, long_one));
}

TEST(Engine, EndsALongPromptWhileShortOnesKeepComing) {
  TestEngine engine(LargeSteps());
  const Request long_one = TestEngine::Generate(Count(5000), 2);
  Reader reader = engine.Submit(long_one);
  int64_t steps = 0;
  while (!reader.ended() && ++steps < 1000) {
    // More than the steps can take.
    while (engine.engine.running() + engine.admission.inbox().waiting() < 8) {
      engine.Submit(TestEngine::Generate(Count(500), 0));
    }
    engine.engine.RunOnce();
    reader.Read();
  }
  ExpectAnswered(reader, engine.Expect({}, long_one));
  EXPECT_LE(steps, 5000 / (512 / 8) + 3);
}

TEST(Engine, HonoursPriorityInEveryStep) {
  TestEngine engine(LargeSteps());
  Request low = TestEngine::Generate(Count(5000), 1);
  low.priority = -1;
  Request high = TestEngine::Generate(Count(10000), 1);
  high.priority = 1;
  high.request_id = "high";
  engine.Submit(low);
  engine.engine.RunOnce();
  engine.Submit(high);
  engine.RunUntilIdle();
  EXPECT_EQ(engine.ended[0].request_id, "high");
}

TEST(Engine, KeepsThePaceOfStreamsBesideALongPrompt) {
  TestEngine engine(LargeSteps());
  TakeTime(&engine);
  Reader stream = engine.Submit(TestEngine::Generate({1}, 100000));
  for (int i = 0; i < 100; ++i) {
    stream.Read();
    engine.engine.RunOnce();
  }
  const Request prompt = TestEngine::Generate(Count(3000), 1);
  Reader reader = engine.Submit(prompt);
  while (!reader.ended()) {
    const absl::Time before = engine.clock.Now();
    engine.engine.RunOnce();
    stream.Read();
    reader.Read();
    // Two or three steps to learn what a prompt costs.
    EXPECT_LE(engine.clock.Now() - before,
              1.5 * engine.options.engine.target_step_time);
  }
  ExpectAnswered(reader, engine.Expect({}, prompt));
  EXPECT_GT(stream.tokens().size(), 100);
}

TEST(Engine, TellsUsageAndPosition) {
  TestEngine engine;
  const Reader reader = engine.Run(TestEngine::Generate({1, 2, 3}, 4));
  EXPECT_EQ(reader.started()->position, 0);
  EXPECT_EQ(reader.started()->version, 0);
  EXPECT_EQ(reader.completed()->usage.prompt_tokens, 3);
  EXPECT_EQ(reader.completed()->usage.generated_tokens, 4);
  EXPECT_EQ(reader.completed()->usage.cached_tokens, 0);
  EXPECT_EQ(reader.completed()->version, 0);
  // The last token was not fed.
  EXPECT_EQ(reader.completed()->position, 3 + 4 - 1);
}

TEST(Engine, TellsTheTimeInQueuePrefillAndDecode) {
  TestEngineOptions options;
  options.model.slots = 1;
  TestEngine engine(options);
  engine.model.SetDuringStep([&] { engine.clock.Advance(absl::Seconds(1)); });
  engine.Submit(TestEngine::Generate({1}, 5));
  const Reader reader = engine.Run(TestEngine::Generate(Count(32), 4));
  EXPECT_EQ(reader.completed()->timing.queue, absl::Seconds(5));
  EXPECT_EQ(reader.completed()->timing.prefill, absl::Seconds(2));
  EXPECT_EQ(reader.completed()->timing.decode, absl::Seconds(3));
  EXPECT_EQ(engine.ended.back().total, absl::Seconds(10));
}

TEST(Engine, SumsUpEachRequestOnce) {
  TestEngine engine;
  engine.Run(TestEngine::Turn("a", "r", {1, 2}, 3));
  ASSERT_EQ(engine.ended.size(), 1);
  EXPECT_EQ(engine.ended[0].kind, "generate");
  EXPECT_EQ(engine.ended[0].session_id, "a");
  EXPECT_EQ(engine.ended[0].request_id, "r");
  EXPECT_EQ(engine.ended[0].finish_reason, "length");
  EXPECT_EQ(engine.ended[0].usage.generated_tokens, 3);
}

// A clock that goes on while a turn ends: client and log are told one time.
TEST(Engine, ReportsTheVeryFiguresThatItTells) {
  TestEngine engine;
  engine.clock.AdvanceAtEachLook(absl::Milliseconds(1));
  const Reader reader = engine.Run(TestEngine::Turn("a", "r", {1, 2}, 3));
  ASSERT_TRUE(reader.completed().has_value());
  ASSERT_EQ(engine.ended.size(), 1);
  const Timing& told = reader.completed()->timing;
  const Timing& reported = engine.ended[0].timing;
  EXPECT_GT(told.decode, absl::ZeroDuration());
  EXPECT_EQ(reported.queue, told.queue);
  EXPECT_EQ(reported.prefill, told.prefill);
  EXPECT_EQ(reported.decode, told.decode);
  EXPECT_EQ(engine.ended[0].usage.prompt_tokens,
            reader.completed()->usage.prompt_tokens);
}

// --- Stopping.

TEST(Engine, OnlyFeedsThePromptIfMaxTokensIsZero) {
  TestEngine engine;
  const Reader reader = engine.Run(TestEngine::Generate({1, 2, 3}, 0));
  ASSERT_TRUE(reader.completed().has_value());
  EXPECT_THAT(reader.tokens(), IsEmpty());
  EXPECT_EQ(reader.completed()->finish_reason, FinishReason::kLength);
  EXPECT_EQ(reader.completed()->position, 3);
}

TEST(Engine, SendsAStopTokenWithoutText) {
  TestEngine engine(WithText());
  engine.script.Say(1, Bytes("abc"));
  Request request = TestEngine::Generate(Bytes("?"), 10);
  request.stopping.stop_token_ids = {'b'};
  const Reader reader = engine.Run(request);
  EXPECT_EQ(reader.ids(), Bytes("ab"));
  EXPECT_EQ(reader.tokens()[1].text, "");
  EXPECT_EQ(reader.text(), "a");
  EXPECT_EQ(reader.completed()->finish_reason, FinishReason::kStop);
}

TEST(Engine, StopsAtTheEndOfSequence) {
  TestEngine engine(WithText());
  engine.script.Say(1, {'a', kEndOfText, 'b'});
  const Reader reader = engine.Run(TestEngine::Generate(Bytes("?"), 10));
  EXPECT_THAT(reader.ids(), ElementsAre('a', kEndOfText));
  EXPECT_EQ(reader.completed()->finish_reason, FinishReason::kStop);
}

TEST(Engine, GoesOnAfterTheEndOfSequenceIfItIsToBeIgnored) {
  TestEngine engine(WithText());
  engine.script.Say(1, {'a', kEndOfText, 'b'});
  Request request = TestEngine::Generate(Bytes("?"), 3);
  request.stopping.ignore_eos = true;
  const Reader reader = engine.Run(request);
  EXPECT_THAT(reader.ids(), ElementsAre('a', kEndOfText, 'b'));
  EXPECT_EQ(reader.text(), "ab");
}

TEST(Engine, StillStopsAtAnIgnoredEndIfItIsAStopToken) {
  TestEngine engine(WithText());
  engine.script.Say(1, {'a', kEndOfText, 'b'});
  Request request = TestEngine::Generate(Bytes("?"), 3);
  request.stopping.ignore_eos = true;
  request.stopping.stop_token_ids = {kEndOfText};
  EXPECT_THAT(engine.Run(request).ids(), ElementsAre('a', kEndOfText));
}

TEST(Engine, CutsTheTextAtAStopStringAndKeepsItsTokens) {
  TestEngine engine(WithText());
  engine.script.Say(1, Bytes("one. STOP two"));
  Request request = TestEngine::Turn("a", "r1", Bytes("?"), 20);
  request.stopping.stop = {"STOP"};
  const Reader reader = engine.Run(request);
  EXPECT_EQ(reader.text(), "one. ");
  EXPECT_EQ(reader.ids(), Bytes("one. STOP"));
  EXPECT_EQ(reader.completed()->finish_reason, FinishReason::kStop);

  // Those that made it are part of the session.
  const Request next = TestEngine::Turn("a", "r2", Bytes("!"), 5);
  ExpectAnswered(engine.Run(next), engine.Expect(Bytes("?one. STOP"), next));
}

// What is left of two turns on a session, the first of which ends at a stop
// string, beside others.
struct StoppedSession {
  Reader first, second;
  std::string state;  // after the first
  int64_t steps_ahead = 0;
};

StoppedSession RunStopped(const std::string& said, const std::string& stop,
                          bool runs_ahead, bool has_attention) {
  TestEngineOptions options = WithText();
  options.runs_ahead = runs_ahead;
  options.has_attention = has_attention;
  options.model.kv_bytes = size_t{1} << 16;
  TestEngine engine(options);
  Tokens spoken = Bytes(said);
  // "hello" is one token.
  spoken.insert(spoken.end(), {kHelloToken, '!'});
  engine.script.Say(30, spoken);
  Request first =
      Sampled(TestEngine::Turn("a", "r1", Tokens(30, '?'), 20), /*seed=*/7);
  first.stopping.stop = {stop};
  first.sampling.repetition_penalty = 1.5;
  first.sampling.frequency_penalty = 1;
  first.logprobs = 2;
  EXPECT_TRUE(engine.Run(TestEngine::Turn("z", "r", {'z'}, 2)).status().ok());
  Reader reader = engine.Submit(first);
  Reader cancelled = engine.Submit(TestEngine::Generate({'c'}, 60));
  Reader other = engine.Submit(TestEngine::Generate({'o'}, 8));
  for (int i = 0; i < 4; ++i) engine.RunOnce();
  // Both let nothing run ahead for a while.
  cancelled.Cancel(absl::CancelledError("gone"));
  ENGRAM_CHECK_OK(engine.Fork("z", "y"));
  engine.RunUntilIdle();
  reader.Read();
  other.Read();
  EXPECT_TRUE(other.status().ok());
  engine.ExpectNoSlotLost();
  const auto snapshot = engine.StateOf(*engine.sessions.Find(Named("a")));
  EXPECT_TRUE(snapshot.ok());
  const std::string state(
      reinterpret_cast<const char*>(snapshot->block->data()),
      snapshot->block->size());
  Request second = Sampled(TestEngine::Turn("a", "r2", Bytes("!"), 5), 9);
  second.sampling.repetition_penalty = 1.5;
  return {reader, engine.Run(second), state, engine.model.steps_ahead()};
}

TEST(Engine, GoesBackToWhereAStopStringEndedWhenADeviceRanPastIt) {
  struct Case {
    const char* said;
    const char* stop;
  };
  for (const Case& one : {Case{"one. STOP two", "STOP"},  // ends with a token
                          Case{"one. ", "ell"},           // within a token
                          Case{"one. ", ". hello"},       // with one of many
                          Case{"", "hello!"},             // with the last one
                          Case{"one", "never"}}) {
    for (const bool has_attention : {false, true}) {
      SCOPED_TRACE(testing::Message() << one.said << "/" << one.stop);
      const StoppedSession ahead =
          RunStopped(one.said, one.stop, true, has_attention);
      const StoppedSession expected =
          RunStopped(one.said, one.stop, false, has_attention);
      EXPECT_GT(ahead.steps_ahead, 0);
      EXPECT_EQ(expected.steps_ahead, 0);
      EXPECT_TRUE(ahead.state == expected.state);
      for (const auto& [got, wanted] :
           {std::pair(&ahead.first, &expected.first),
            std::pair(&ahead.second, &expected.second)}) {
        ASSERT_TRUE(got->ended());
        ASSERT_TRUE(got->status().ok()) << got->status();
        EXPECT_EQ(got->ids(), wanted->ids());
        EXPECT_EQ(got->text(), wanted->text());
        EXPECT_EQ(got->logprobs(), wanted->logprobs());
        EXPECT_EQ(got->completed()->version, wanted->completed()->version);
        EXPECT_EQ(got->completed()->position, wanted->completed()->position);
        EXPECT_EQ(got->completed()->finish_reason,
                  wanted->completed()->finish_reason);
      }
    }
  }
}

// --- Readers that are told late.

TEST(Engine, RunsOnWhileAReaderIsNotToldYet) {
  TestEngineOptions options = WithText();
  options.delivers_by_hand = true;
  TestEngine engine(options);
  engine.script.Say(1, Bytes("one two"));
  Reader reader = engine.Submit(TestEngine::Generate(Bytes("?"), 7));
  reader.WaitToBeTold();
  reader.Read();
  engine.RunUntilIdle();
  reader.Read();
  EXPECT_TRUE(reader.tokens().empty());
  EXPECT_EQ(engine.ended.size(), 1);
  EXPECT_TRUE(engine.delivery.TellNext());
  EXPECT_FALSE(engine.delivery.TellNext());
  reader.Read();
  EXPECT_TRUE(reader.ended());
  EXPECT_EQ(reader.text(), "one two");
}

// Whoever reads late makes no difference to where a turn ends: nothing after
// the stop string is sampled, counted or kept.
TEST(Engine, EndsATurnAtAStopStringHoweverLateItsReaderIs) {
  TestEngineOptions options = WithText();
  options.delivers_by_hand = true;
  TestEngine engine(options);
  engine.script.Say(1, Bytes("one. STOP two"));
  Request request = TestEngine::Turn("a", "r1", Bytes("?"), 20);
  request.stopping.stop = {"STOP"};
  Reader reader = engine.Submit(request);
  reader.WaitToBeTold();
  reader.Read();
  engine.RunUntilIdle();
  EXPECT_EQ(engine.model.steps(), 9);
  ASSERT_EQ(engine.ended.size(), 1);
  EXPECT_EQ(engine.ended[0].usage.generated_tokens, 9);
  while (engine.delivery.TellNext()) {
  }
  reader.Read();
  EXPECT_EQ(reader.text(), "one. ");
  EXPECT_EQ(reader.ids(), Bytes("one. STOP"));
  const Request next = TestEngine::Turn("a", "r2", Bytes("!"), 5);
  const Reader after = engine.Run(next);
  ExpectAnswered(after, engine.Expect(Bytes("?one. STOP"), next));
}

TEST(Engine, PausesWhoeverIsNotToldAndNobodyElse) {
  TestEngineOptions options = WithText();
  options.delivers_by_hand = true;
  options.admission.stream_tokens = 3;
  TestEngine engine(options);
  Reader late = engine.Submit(TestEngine::Generate(Bytes("?"), 8));
  late.WaitToBeTold();
  late.Read();
  const Reader other = engine.Run(TestEngine::Generate(Bytes("!"), 8));
  EXPECT_EQ(other.ids().size(), 8);
  EXPECT_EQ(engine.engine.running(), 1);
  while (!late.ended()) {
    while (engine.delivery.TellNext()) {
    }
    late.Read();
    engine.engine.RunOnce();
  }
  EXPECT_EQ(late.ids().size(), 8);
}

// --- Text.

TEST(Engine, TellsAtTheEndWhatWasHeldBack) {
  TestEngine engine(WithText());
  engine.script.Say(1, Bytes("no ST"));
  Request request = TestEngine::Generate(Bytes("?"), 5);
  request.stopping.stop = {"STOP"};
  const Reader reader = engine.Run(request);
  EXPECT_EQ(reader.completed()->text, "ST");
  EXPECT_EQ(reader.text(), "no ST");
}

TEST(Engine, SendsWholeCharactersOnly) {
  TestEngine engine(WithText());
  engine.script.Say(1, Bytes("\xe2\x82\xac!"));
  const Reader reader = engine.Run(TestEngine::Generate(Bytes("?"), 4));
  EXPECT_EQ(reader.tokens()[0].text, "");
  EXPECT_EQ(reader.tokens()[1].text, "");
  EXPECT_EQ(reader.tokens()[2].text, "\xe2\x82\xac");
  EXPECT_EQ(reader.tokens()[0].bytes, "\xe2");
}

// --- Sampling.

TEST(Engine, DrawsTheSameTokensFromTheSameSeed) {
  TestEngine engine;
  const Request request = Sampled(TestEngine::Generate({1, 2}, 30), 7);
  const Tokens first = engine.Run(request).ids();
  EXPECT_EQ(engine.Run(request).ids(), first);
  EXPECT_NE(engine.Run(Sampled(request, 8)).ids(), first);
}

TEST(Engine, TellsTheSeed) {
  TestEngine engine;
  const Reader reader =
      engine.Run(Sampled(TestEngine::Generate({1}, 1), uint64_t{1} << 63));
  EXPECT_EQ(static_cast<uint64_t>(reader.started()->seed), uint64_t{1} << 63);
}

TEST(Engine, CountsEveryTokenOfTheSessionForTheRepetitionPenalty) {
  TestEngine engine;
  engine.Run(TestEngine::Turn("a", "r1", {3, 5, 7}, 1));
  const Tokens said = engine.Run(TestEngine::Turn("a", "r2", {2}, 2)).ids();
  Tokens history = {3, 5, 7};
  history.push_back(
      engine.Expect({}, TestEngine::Generate(history, 1)).tokens[0]);
  history.push_back(2);
  history.insert(history.end(), said.begin(), said.end());

  Request request = TestEngine::Turn("a", "r3", {9}, 3);
  request.sampling.repetition_penalty = 100;
  const Tokens third = engine.Run(request).ids();
  EXPECT_EQ(third, engine.Expect(history, request).tokens);
  // Logits above 0 are divided by 100, those below multiplied: as good as
  // never said again.
  for (int32_t id : third) {
    EXPECT_EQ(std::count(history.begin(), history.end(), id), 0) << id;
  }
}

TEST(Engine, CountsOnlyThisTurnForPresenceAndFrequency) {
  TestEngine engine;
  const Request first = TestEngine::Turn("a", "r1", {1}, 4);
  Tokens history = {1};
  for (int32_t id : engine.Run(first).ids()) history.push_back(id);
  Request second = TestEngine::Turn("a", "r2", {2}, 12);
  second.sampling.presence_penalty = 3;
  second.sampling.frequency_penalty = 2;
  ExpectAnswered(engine.Run(second), engine.Expect(history, second));
}

TEST(Engine, CountsReceivedTokensForTheFrequencyPenalty) {
  TestEngine engine;
  Request request = TestEngine::Generate({1}, 12);
  request.sampling.frequency_penalty = 3;
  const Tokens all = engine.Run(request).ids();
  request.received.assign(all.begin(), all.begin() + 5);
  EXPECT_EQ(engine.Run(request).ids(), Tokens(all.begin() + 5, all.end()));
}

TEST(Engine, TellsLogProbabilitiesIfAsked) {
  TestEngine engine;
  Request request = TestEngine::Generate({1, 2}, 3);
  request.logprobs = 4;
  const Reader reader = engine.Run(request);
  Script::Sequence sequence;
  sequence.Feed(1);
  sequence.Feed(2);
  for (const TokenEvent& token : reader.tokens()) {
    const std::vector<float> logits = engine.script.LogitsAfter(sequence);
    EXPECT_EQ(token.logprob, LogProbabilityOf(logits, token.id));
    ASSERT_EQ(token.top.size(), 4);
    EXPECT_EQ(token.top[0].id, token.id);  // greedy
    sequence.Feed(token.id);
  }
}

// --- Resuming.

TEST(Engine, ResumesFromAnyTokenWithTheSameRest) {
  TestEngine engine;
  const Request request = Sampled(TestEngine::Generate(Count(20), 12), 3);
  const Reader whole = engine.Run(request);
  const Tokens all = whole.ids();
  for (size_t received = 0; received <= all.size(); ++received) {
    SCOPED_TRACE(received);
    Request resumed = request;
    resumed.received.assign(all.begin(), all.begin() + received);
    const Reader rest = engine.Run(resumed);
    ASSERT_TRUE(rest.status().ok()) << rest.status();
    EXPECT_EQ(rest.ids(), Tokens(all.begin() + received, all.end()));
    if (!rest.tokens().empty()) {
      EXPECT_EQ(rest.tokens()[0].index, received);
    }
    EXPECT_EQ(rest.completed()->position, whole.completed()->position);
    EXPECT_EQ(rest.completed()->usage.generated_tokens, all.size());
    EXPECT_EQ(rest.completed()->finish_reason, FinishReason::kLength);
  }
}

TEST(Engine, ResumesATurnFromAnyTokenWithTheSameSessionAfterIt) {
  TestEngine engine(WithText());
  engine.script.Say(5, Bytes("Gr\xc3\xbc\xc3\x9f"
                             "e. STOP"));
  Request request = TestEngine::Turn("a", "r", Bytes("1234"), 30);
  request.stopping.stop = {"STOP", "e. S!"};
  for (size_t received = 0;; ++received) {
    SCOPED_TRACE(received);
    const std::string id = "session" + std::to_string(received);
    // This leaves a pending token to be fed first.
    engine.Run(TestEngine::Turn(id, "r0", Bytes("0"), 1));
    Request turn = request;
    turn.session_id = id;
    const Tokens history = {
        '0', engine.Expect({}, TestEngine::Generate(Bytes("0"), 1)).tokens[0]};
    const ExpectedAnswer expected = engine.Expect(history, turn);
    if (received > expected.tokens.size()) break;
    turn.received.assign(expected.tokens.begin(),
                         expected.tokens.begin() + received);
    const Reader rest = engine.Run(turn);
    ASSERT_TRUE(rest.status().ok()) << rest.status();
    EXPECT_EQ(rest.ids(), Tokens(expected.tokens.begin() + received,
                                 expected.tokens.end()));
    EXPECT_EQ(rest.completed()->finish_reason, expected.finish_reason);
    // The text goes on where it broke off: it ends alike.
    EXPECT_TRUE(expected.text.ends_with(rest.text())) << rest.text();
    EXPECT_EQ(rest.completed()->version, 2);

    const Request next = TestEngine::Turn(id, "next", Bytes("x"), 4);
    Tokens all = history;
    for (int32_t one : Bytes("1234")) all.push_back(one);
    for (int32_t one : expected.tokens) all.push_back(one);
    ExpectAnswered(engine.Run(next), engine.Expect(all, next));
  }
}

TEST(Engine, CompletesAtOnceIfTheReceivedTokensEndTheTurn) {
  TestEngine engine(WithText());
  engine.script.Say(1, {'a', kEndOfText});
  Request request = TestEngine::Generate(Bytes("?"), 10);
  request.received = {'a', kEndOfText};
  const Reader reader = engine.Run(request);
  EXPECT_THAT(reader.tokens(), IsEmpty());
  EXPECT_EQ(reader.completed()->finish_reason, FinishReason::kStop);
  EXPECT_EQ(reader.completed()->position, 2);
}

// --- Scores.

TEST(Engine, ScoresATextWithoutSession) {
  TestEngine engine;
  const Tokens text = Count(40);
  const Reader reader = engine.Run(TestEngine::Score("", text));
  EXPECT_EQ(reader.ids(), text);
  EXPECT_EQ(reader.logprobs(), ExpectScore(engine.script, {}, text));
  EXPECT_FALSE(reader.tokens()[0].logprob.has_value());
  engine.ExpectNoSlotLost();
}

TEST(Engine, ScoresATextOfOneToken) {
  TestEngine engine;
  const Reader reader = engine.Run(TestEngine::Score("", {5}));
  EXPECT_EQ(reader.ids(), Tokens{5});
  EXPECT_FALSE(reader.tokens()[0].logprob.has_value());
}

TEST(Engine, ScoresAfterASessionWithoutPendingToken) {
  TestEngine engine;
  engine.Run(TestEngine::Turn("a", "r", {1, 2, 3}, 0));
  const Tokens text = Count(40);
  const Reader reader = engine.Run(TestEngine::Score("a", text));
  EXPECT_EQ(reader.logprobs(), ExpectScore(engine.script, {1, 2, 3}, text));
}

TEST(Engine, ScoresAfterASessionWithAPendingToken) {
  TestEngine engine;
  Tokens history = {1, 2, 3};
  const Reader turn = engine.Run(TestEngine::Turn("a", "r", history, 2));
  for (int32_t id : turn.ids()) history.push_back(id);
  const Tokens text = Count(40);
  EXPECT_EQ(engine.Run(TestEngine::Score("a", text)).logprobs(),
            ExpectScore(engine.script, history, text));
}

TEST(Engine, ScoresWithOneLogitsRowToSpare) {
  TestEngineOptions options;
  options.model = {.slots = 2, .max_batch_tokens = 1, .max_logits_rows = 2};
  TestEngine engine(options);
  engine.Run(TestEngine::Turn("a", "r", {1, 2, 3}, 0));
  const Tokens text = Count(9);
  EXPECT_EQ(engine.Run(TestEngine::Score("a", text)).logprobs(),
            ExpectScore(engine.script, {1, 2, 3}, text));
}

TEST(Engine, ChangesNoSessionByAScore) {
  TestEngine engine;
  Tokens history = {1, 2, 3};
  for (int32_t id : engine.Run(TestEngine::Turn("a", "r", history, 2)).ids()) {
    history.push_back(id);
  }
  engine.Run(TestEngine::Score("a", {4, 5, 6}));
  EXPECT_EQ(engine.sessions.Get(Named("a"))->version, 1);
  EXPECT_EQ(engine.sessions.Get(Named("a"))->position, 4);
  const Request next = TestEngine::Turn("a", "next", {7}, 5);
  ExpectAnswered(engine.Run(next), engine.Expect(history, next));
}

TEST(Engine, ScoresTheLastCommitWhileATurnRuns) {
  TestEngine engine;
  Tokens history = {1, 2, 3};
  for (int32_t id : engine.Run(TestEngine::Turn("a", "r", history, 2)).ids()) {
    history.push_back(id);
  }
  Reader turn = engine.Submit(TestEngine::Turn("a", "r2", {4}, 100));
  for (int i = 0; i < 5; ++i) engine.engine.RunOnce();
  Reader score = engine.Submit(TestEngine::Score("a", {8, 9}));
  engine.engine.RunOnce();
  score.Read();
  EXPECT_TRUE(score.ended());
  EXPECT_EQ(score.logprobs(), ExpectScore(engine.script, history, {8, 9}));
  turn.Read();
  EXPECT_FALSE(turn.ended());
}

}  // namespace
}  // namespace engram
