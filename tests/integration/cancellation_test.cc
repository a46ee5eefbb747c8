// Calls that their clients give up, at every point where a call can be: in the
// queue of texts, in the queue of requests, while it streams, between two
// turns. Whatever the point, the slot is free again, the session is as it was,
// and the end is counted as what it was.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/integration/generic_call.h"
#include "tests/integration/server_fixture.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

constexpr char kCancelled[] = "code=\"CANCELLED\"";

class Cancellation : public ServerFixture {
 protected:
  Cancellation() : ServerFixture(InductionOptions(/*slots=*/2)) {}

  // Session "s" with one committed turn of three tokens, which holds a slot.
  void Begin() {
    const Answer answer =
        client().Generate(OnSession(TokenTurn("", {1, 2, 3}, 0), "s"));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
  }
  // Nothing runs or waits, and only "s" has a slot or RAM, as Begin left it.
  void ExpectAsItWas(int cancelled) const {
    ASSERT_TRUE(server_.AwaitLoad(0, 0));
    EXPECT_TRUE(
        Eventually([&] { return server_.Metrics().Sum("slots_used") <= 1; }));
    EXPECT_TRUE(Eventually([&] {
      return server_.Metrics().Sum("requests_total", {kCancelled}) == cancelled;
    })) << server_.Metrics().Sum("requests_total", {kCancelled});
    const auto session = client().GetSession("s");
    ASSERT_TRUE(session.ok()) << session.status();
    EXPECT_EQ(session->version(), 1);
    EXPECT_EQ(session->position(), 3);
    // It takes turns again.
    EXPECT_TRUE(
        client().Generate(OnSession(TokenTurn("", {4}, 2), "s")).status.ok());
  }
  // Occupies every slot until the result is gone.
  std::vector<std::unique_ptr<GenerateStream>> FillSlots() {
    std::vector<std::unique_ptr<GenerateStream>> running;
    for (int i = 0; i < 2; ++i) {
      running.push_back(client().StartGenerate(EndlessTurn("")));
      EXPECT_TRUE(running.back()->ReadStarted());
    }
    return running;
  }
};

TEST_F(Cancellation, OfAGenerateThatWaits) {
  Begin();
  auto running = FillSlots();
  const auto waiting = client().StartGenerate(OnSession(EndlessTurn(""), "s"));
  ASSERT_TRUE(server_.AwaitLoad(2, 1));
  waiting->Cancel();
  EXPECT_EQ(waiting->ReadAll().status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(server_.AwaitLoad(2, 0));
  running.clear();
  ExpectAsItWas(3);
}

TEST_F(Cancellation, OfAScoreThatWaits) {
  Begin();
  auto running = FillSlots();
  auto waiting = std::make_unique<GenericCall>(server_.address(),
                                               "/engram.v1.Generation/Score");
  ASSERT_TRUE(waiting->Write(TokenScore("", {1, 2, 3}, "s")));
  waiting->WritesDone();
  ASSERT_TRUE(server_.AwaitLoad(2, 1));
  waiting.reset();
  EXPECT_TRUE(server_.AwaitLoad(2, 0));
  running.clear();
  ExpectAsItWas(3);
}

TEST_F(Cancellation, OfAConverseWhoseTurnWaits) {
  Begin();
  auto running = FillSlots();
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(OnSession(EndlessTurn(""), "s")));
  ASSERT_TRUE(server_.AwaitLoad(2, 1));
  stream->Cancel();
  EXPECT_TRUE(server_.AwaitLoad(2, 0));
  running.clear();
  ExpectAsItWas(3);
}

TEST_F(Cancellation, OfAGenerateThatStreams) {
  Begin();
  const auto running = client().StartGenerate(OnSession(EndlessTurn(""), "s"));
  ASSERT_TRUE(running->ReadStarted());
  v1::GenerateResponse token;
  ASSERT_TRUE(running->Read(&token));
  running->Cancel();
  EXPECT_EQ(running->ReadAll().status.code(), absl::StatusCode::kCancelled);
  ExpectAsItWas(1);
}

// Its writes do not end any more, and nothing else tells of the client.
TEST_F(Cancellation, OfAGenerateThatNobodyReads) {
  Begin();
  v1::GenerateRequest request = OnSession(EndlessTurn(""), "s");
  request.set_logprobs(16);
  const auto running = client().StartGenerate(request);
  ASSERT_TRUE(running->ReadStarted());
  // As much as the network holds.
  double before = -1;
  ASSERT_TRUE(Eventually([&] {
    const double now = server_.Metrics().Sum("generation_tokens_total");
    return now > 100 && now == std::exchange(before, now);
  }));
  running->Cancel();
  ExpectAsItWas(1);
}

TEST_F(Cancellation, OfAConverseThatStreams) {
  Begin();
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(OnSession(EndlessTurn(""), "s")));
  v1::ConverseResponse response;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(stream->Read(&response));
  stream->Cancel();
  ExpectAsItWas(1);
}

TEST_F(Cancellation, OfAConverseBetweenItsTurns) {
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(OnSession(TokenTurn("", {1, 2, 3}, 0), "s")));
  ASSERT_TRUE(stream->ReadTurn().completed.has_value());
  stream->Cancel();
  EXPECT_FALSE(stream->Finish().ok());
  ExpectAsItWas(0);
}

// --- Texts that wait to be tokenised.

class CancellationOfTexts : public Cancellation {
 protected:
  // Calls that are refused once their text has been read to its end.
  void SendTexts(int count) {
    const v1::GenerateRequest turn = TurnThatIsReadForLong();
    for (int i = 0; i < count; ++i) {
      texts_.push_back(client().StartGenerate(turn));
    }
  }
  // When they are answered, what was cancelled between them has been seen too.
  void ReadTexts() {
    for (const auto& stream : texts_) {
      EXPECT_EQ(stream->ReadAll().status.code(),
                absl::StatusCode::kInvalidArgument);
    }
  }
  // Whether the call was counted depends on how far it had come; everything
  // else does not.
  void ExpectNothingIsLeft() const {
    ASSERT_TRUE(server_.AwaitLoad(0, 0));
    EXPECT_TRUE(
        Eventually([&] { return server_.Metrics().Sum("slots_used") == 0; }));
    EXPECT_LE(server_.Metrics().Sum("requests_total", {kCancelled}), 1);
    EXPECT_EQ(server_.Metrics().Sum("requests_total", {"code=\"OK\""}), 0);
    EXPECT_EQ(client().GetSession("s").status().code(),
              absl::StatusCode::kNotFound);
  }
  v1::GenerateRequest EndlessText() const {
    v1::GenerateRequest request = OnSession(EndlessTurn(""), "s");
    request.set_text(text_);
    return request;
  }

  const std::string text_ = Words(400000);
  std::vector<std::unique_ptr<GenerateStream>> texts_;
};

TEST_F(CancellationOfTexts, OfAGenerate) {
  SendTexts(4);
  const auto given_up = client().StartGenerate(EndlessText());
  given_up->Cancel();
  EXPECT_EQ(given_up->ReadAll().status.code(), absl::StatusCode::kCancelled);
  SendTexts(2);
  ReadTexts();
  ExpectNothingIsLeft();
}

TEST_F(CancellationOfTexts, OfAConverse) {
  SendTexts(4);
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(EndlessText()));
  stream->Cancel();
  EXPECT_FALSE(stream->Finish().ok());
  SendTexts(2);
  ReadTexts();
  ExpectNothingIsLeft();
}

TEST_F(CancellationOfTexts, OfAScore) {
  SendTexts(4);
  auto score = std::make_unique<GenericCall>(server_.address(),
                                             "/engram.v1.Generation/Score");
  v1::ScoreRequest request;
  request.set_text(text_.substr(0, 100000));
  ASSERT_TRUE(score->Write(request));
  score.reset();
  SendTexts(2);
  ReadTexts();
  ExpectNothingIsLeft();
}

}  // namespace
}  // namespace engram
