#include "server/replay.h"

#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ReplayTest : public ::testing::Test {
 protected:
  ReplayTest() : tokenizer_(MakeByteTokenizer()), engine_(Options()) {}

  TestEngineOptions Options() const {
    TestEngineOptions options;
    options.vocabulary_size = kByteTokenizerIds;
    options.tokenizer = tokenizer_.get();
    options.eos_token_ids = {kEndOfText};
    return options;
  }

  // The events of a replay from its record, in order.
  absl::StatusOr<std::vector<Event>> Replayed(const Request& request) {
    absl::StatusOr<std::unique_ptr<Replay>> replay = Replay::Create(
        engine_.Recorded(request), engine_.Resolved(request), tokenizer_.get());
    if (!replay.ok()) return replay.status();
    std::vector<Event> events;
    Event event;
    while ((*replay)->Next(&event)) events.push_back(event);
    EXPECT_TRUE((*replay)->status().ok()) << (*replay)->status();
    return events;
  }

  // Runs `request`, then replays it and compares with what was streamed after
  // its first `received` tokens.
  void ExpectReplayed(const Request& request, const Reader& first,
                      size_t received) {
    SCOPED_TRACE(received);
    Request repeat = request;
    const Tokens all = first.ids();
    repeat.received.assign(all.begin(), all.begin() + received);
    const absl::StatusOr<std::vector<Event>> events = Replayed(repeat);
    ASSERT_TRUE(events.ok()) << events.status();
    ASSERT_EQ(events->size(), all.size() - received + 2);
    const auto& started = std::get<StartedEvent>(events->front());
    EXPECT_EQ(started.version, first.started()->version);
    EXPECT_EQ(started.position, first.started()->position);
    EXPECT_EQ(started.seed, first.started()->seed);
    for (size_t i = received; i < all.size(); ++i) {
      const auto& token = std::get<TokenEvent>((*events)[1 + i - received]);
      const TokenEvent& before = first.tokens()[i];
      EXPECT_EQ(token.index, before.index);
      EXPECT_EQ(token.id, before.id);
      EXPECT_EQ(token.text, before.text);
      EXPECT_EQ(token.bytes, before.bytes);
      EXPECT_EQ(token.logprob, before.logprob);
      EXPECT_EQ(token.top.size(), before.top.size());
    }
    const auto& completed = std::get<CompletedEvent>(events->back());
    EXPECT_EQ(completed.text, first.completed()->text);
    EXPECT_EQ(completed.version, first.completed()->version);
    EXPECT_EQ(completed.position, first.completed()->position);
    EXPECT_EQ(completed.finish_reason, first.completed()->finish_reason);
    EXPECT_EQ(completed.usage.generated_tokens,
              first.completed()->usage.generated_tokens);
  }

  const std::unique_ptr<Tokenizer> tokenizer_;
  TestEngine engine_;
};

TEST_F(ReplayTest, TellsTheWholeAnswerAgain) {
  Request request = TestEngine::Turn("a", "r", Bytes("hi"), 12);
  request.sampling.temperature = 1;
  ExpectReplayed(request, engine_.Run(request), 0);
}

TEST_F(ReplayTest, GoesOnAfterAnyReceivedToken) {
  engine_.script.Say(2, Bytes("Gr\xc3\xbc\xc3\x9f"
                              "e. STOP"));
  Request request = TestEngine::Turn("a", "r", Bytes("hi"), 30);
  request.stopping.stop = {"STOP"};
  request.logprobs = 2;
  const Reader first = engine_.Run(request);
  for (size_t received = 0; received <= first.tokens().size(); ++received) {
    ExpectReplayed(request, first, received);
  }
}

TEST_F(ReplayTest, TellsWhatWasHeldBack) {
  engine_.script.Say(2, Bytes("no ST"));
  Request request = TestEngine::Turn("a", "r", Bytes("hi"), 5);
  request.stopping.stop = {"STOP"};
  ExpectReplayed(request, engine_.Run(request), 0);
}

TEST_F(ReplayTest, TellsAStopTokenWithoutText) {
  engine_.script.Say(2, {'a', kEndOfText});
  const Request request = TestEngine::Turn("a", "r", Bytes("hi"), 5);
  ExpectReplayed(request, engine_.Run(request), 0);
}

TEST_F(ReplayTest, HasNoProbabilitiesOfTokensThatWereReceived) {
  Request request = TestEngine::Turn("a", "r", Bytes("hi"), 6);
  request.logprobs = 1;
  const Tokens all = engine_.Expect({}, request).tokens;
  request.received.assign(all.begin(), all.begin() + 2);
  const Reader first = engine_.Run(request);
  ASSERT_EQ(first.tokens().size(), 4);
  request.received.clear();
  const absl::StatusOr<std::vector<Event>> events = Replayed(request);
  ASSERT_TRUE(events.ok());
  for (size_t i = 0; i < all.size(); ++i) {
    const auto& token = std::get<TokenEvent>((*events)[1 + i]);
    EXPECT_EQ(token.id, all[i]);
    EXPECT_EQ(token.logprob.has_value(), i >= 2);
    if (i >= 2) {
      EXPECT_EQ(token.logprob, first.tokens()[i - 2].logprob);
    }
  }
}

// As if two requests had been taken for one.
TEST_F(ReplayTest, EndsWithAnErrorWhereTheRecordGoesOnAfterAStop) {
  engine_.script.Say(2, Bytes("a.b.c"));
  Request request = TestEngine::Turn("a", "r", Bytes("hi"), 5);
  engine_.Run(request);
  const auto record = engine_.Recorded(request);
  request.stopping.stop = {"."};
  auto replay = Replay::Create(record, request, tokenizer_.get());
  ASSERT_TRUE(replay.ok());
  Event event;
  int events = 0;
  while ((*replay)->Next(&event)) ++events;
  EXPECT_EQ(events, 2);  // Started, "a"
  EXPECT_EQ((*replay)->status().code(), absl::StatusCode::kInternal);
  EXPECT_FALSE((*replay)->Next(&event));

  request.received = Bytes("a.b");
  EXPECT_EQ(Replay::Create(record, request, tokenizer_.get()).status().code(),
            absl::StatusCode::kInternal);
}

TEST_F(ReplayTest, RefusesReceivedTokensThatDiffer) {
  Request request = TestEngine::Turn("a", "r", Bytes("hi"), 5);
  const Tokens all = engine_.Run(request).ids();
  request.received = {all[0], (all[1] + 1) % 256};
  const absl::Status status = Replayed(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("received_token_ids[1]"),
                    HasSubstr(std::to_string(all[1]))));
}

TEST_F(ReplayTest, RefusesMoreReceivedTokensThanTheRecordHas) {
  engine_.script.Say(2, {'a', kEndOfText});
  Request request = TestEngine::Turn("a", "r", Bytes("hi"), 5);
  engine_.Run(request);
  // Not after a stop token: admission would refuse that.
  const auto record = engine_.Recorded(request);
  request.received = {'a', kEndOfText, 'b'};
  const absl::Status status =
      Replay::Create(record, request, tokenizer_.get()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("3 tokens"), HasSubstr("with 2")));
}

}  // namespace
}  // namespace engram
