// Converse: many turns over one stream.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/integration/server_fixture.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

class Converse : public ServerFixture {
 protected:
  Converse() : ServerFixture(ZooOptions({kInduction})) {}

  // Starts a turn that does not end by itself, and reads `tokens` of it.
  void StartEndless(ConverseStream* stream, const v1::GenerateRequest& turn,
                    int tokens) {
    ASSERT_TRUE(stream->WriteTurn(turn));
    v1::ConverseResponse response;
    ASSERT_TRUE(stream->Read(&response));
    ASSERT_TRUE(response.has_started());
    for (int i = 0; i < tokens; ++i) {
      ASSERT_TRUE(stream->Read(&response));
      ASSERT_TRUE(response.has_token());
    }
  }
};

// Of a turn "r" on session "s", which has read two tokens in one turn.
void ExpectCancelled(const Answer& answer) {
  ASSERT_TRUE(answer.started.has_value()) << answer.status;
  EXPECT_EQ(answer.started->session_id(), "s");
  EXPECT_EQ(answer.started->request_id(), "r");
  EXPECT_EQ(answer.started->version(), 1);
  EXPECT_EQ(answer.started->position(), 2);
  ASSERT_TRUE(answer.completed.has_value()) << answer.status;
  EXPECT_EQ(answer.completed->finish_reason(), v1::CANCELLED);
  EXPECT_EQ(answer.completed->version(), 1);
  EXPECT_EQ(answer.completed->position(), 2);
}

// The messages up to a turn's Completed.
std::optional<v1::Completed> ReadCompleted(ConverseStream* stream) {
  v1::ConverseResponse response;
  while (stream->Read(&response)) {
    if (response.has_completed()) return response.completed();
  }
  return std::nullopt;
}

TEST_F(Converse, RunsTurnsOneAfterTheOtherOnOneSession) {
  const auto stream = client().Converse();
  for (int turn = 0; turn < 4; ++turn) {
    SCOPED_TRACE(turn);
    v1::GenerateRequest request = TokenTurn("", {1, 2, 3}, 2);
    if (turn == 0) request.set_session_id("s");
    ASSERT_TRUE(stream->WriteTurn(request));
    const Answer answer = stream->ReadTurn();
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_TRUE(answer.in_order);
    EXPECT_EQ(answer.started->session_id(), "s");
    EXPECT_EQ(answer.started->version(), turn);
    EXPECT_EQ(answer.completed->version(), turn + 1);
    EXPECT_EQ(answer.completed->position(), 5 * (turn + 1) - 1);
  }
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(client().GetSession("s")->version(), 4);
}

// Long enough that gRPC's threads leave it to others (RequestThreads).
std::string LongText() { return Words(17000); }

TEST_F(Converse, LongTextsAreTokenisedAndAnsweredLikeShortOnes) {
  const std::string text = LongText();
  const std::vector<int32_t> ids = client().Ids(kInduction, text);
  ASSERT_GT(ids.size(), 4000u);
  const Answer expected = client().Generate(TokenTurn("", ids, 4));
  ASSERT_TRUE(expected.status.ok()) << expected.status;

  const Answer generated = client().Generate(TextTurn("", text, 4));
  ASSERT_TRUE(generated.status.ok()) << generated.status;
  EXPECT_EQ(generated.ids(), expected.ids());

  const auto stream = client().Converse();
  for (int turn = 1; turn <= 2; ++turn) {
    ASSERT_TRUE(stream->WriteTurn(TextTurn("", text, 4)));
    const Answer answer = stream->ReadTurn();
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.completed->version(), turn);
    if (turn == 1) {
      EXPECT_EQ(answer.ids(), expected.ids());
    }
  }
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());

  v1::ScoreRequest score;
  score.set_text(text);
  const auto scored = client().Score(score);
  ASSERT_TRUE(scored.ok()) << scored.status();
  EXPECT_EQ(static_cast<size_t>(scored->tokens_size()), ids.size());
}

TEST_F(Converse, ALongTextThatCannotBeTokenisedEndsTheStream) {
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(TextTurn("", LongText() + "what", 1)));
  v1::ConverseResponse response;
  EXPECT_FALSE(stream->Read(&response));
  const absl::Status end = stream->Finish();
  EXPECT_EQ(end.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(end.message()), HasSubstr("what"));
}

TEST_F(Converse, MakesUpASessionIdIfNoneIsGiven) {
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(TokenTurn("", {1}, 0)));
  const Answer first = stream->ReadTurn();
  ASSERT_TRUE(first.completed.has_value()) << first.status;
  ASSERT_FALSE(first.started->session_id().empty());
  ASSERT_TRUE(stream->WriteTurn(TokenTurn("", {2}, 0)));
  const Answer second = stream->ReadTurn();
  EXPECT_EQ(second.started->session_id(), first.started->session_id());
  EXPECT_EQ(second.completed->version(), 2);
}

TEST_F(Converse, TurnsMayBeSentBeforeTheOnesBeforeThemHaveEnded) {
  const auto stream = client().Converse();
  for (int turn = 0; turn < 5; ++turn) {
    ASSERT_TRUE(stream->WriteTurn(OnSession(TokenTurn("", {1, 2}, 3), "s")));
  }
  stream->WritesDone();
  for (int turn = 0; turn < 5; ++turn) {
    const Answer answer = stream->ReadTurn();
    ASSERT_TRUE(answer.completed.has_value()) << answer.status;
    EXPECT_EQ(answer.completed->version(), turn + 1);
  }
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(Converse, ACancelledTurnIsAnsweredWithCompletedAndTheStreamGoesOn) {
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(OnSession(TokenTurn("", {1, 2}, 0), "s")));
  ASSERT_TRUE(ReadCompleted(stream.get()).has_value());
  StartEndless(stream.get(), EndlessTurn(""), 3);
  ASSERT_TRUE(stream->WriteCancel());
  const auto cancelled = ReadCompleted(stream.get());
  ASSERT_TRUE(cancelled.has_value());
  EXPECT_EQ(cancelled->finish_reason(), v1::CANCELLED);
  // Nothing is kept: the session is as it was.
  EXPECT_EQ(cancelled->version(), 1);
  EXPECT_EQ(cancelled->position(), 2);
  ASSERT_TRUE(stream->WriteTurn(TokenTurn("", {3}, 0)));
  const Answer next = stream->ReadTurn();
  ASSERT_TRUE(next.completed.has_value()) << next.status;
  EXPECT_EQ(next.started->version(), 1);
  EXPECT_EQ(next.completed->position(), 3);
}

TEST_F(Converse, ACancelledTurnWithKeepPartialIsCommitted) {
  const auto stream = client().Converse();
  v1::GenerateRequest endless = OnSession(EndlessTurn(""), "s", "endless");
  endless.set_keep_partial(true);
  StartEndless(stream.get(), endless, 3);
  ASSERT_TRUE(stream->WriteCancel());
  const auto cancelled = ReadCompleted(stream.get());
  ASSERT_TRUE(cancelled.has_value());
  EXPECT_EQ(cancelled->finish_reason(), v1::CANCELLED);
  EXPECT_EQ(cancelled->version(), 1);
  EXPECT_GE(cancelled->usage().generated_tokens(), 3);
  EXPECT_EQ(cancelled->position(),
            3 + cancelled->usage().generated_tokens() - 1);
  v1::GenerateRequest on = TokenTurn("", {}, 2);
  on.clear_prompt();
  ASSERT_TRUE(stream->WriteTurn(on));
  const Answer next = stream->ReadTurn();
  ASSERT_TRUE(next.completed.has_value()) << next.status;
  EXPECT_EQ(next.started->version(), 1);
  EXPECT_EQ(next.completed->version(), 2);
}

TEST_F(Converse, ACancelWithoutARunningTurnDoesNothing) {
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteCancel());
  ASSERT_TRUE(stream->WriteTurn(OnSession(TokenTurn("", {1, 2}, 3), "s")));
  const Answer answer = stream->ReadTurn();
  ASSERT_TRUE(answer.completed.has_value()) << answer.status;
  EXPECT_EQ(answer.completed->finish_reason(), v1::LENGTH);
  ASSERT_TRUE(stream->WriteCancel());
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(Converse, ACancelledTurnThatStillWaitsTellsTheSessionAsItIs) {
  TestServer server(InductionOptions(/*slots=*/1));
  const TestClient& client = server.client();
  ASSERT_TRUE(
      client.Generate(OnSession(TokenTurn("", {1, 2}, 0), "s")).status.ok());
  const auto running = client.StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(running->ReadStarted());
  const auto stream = client.Converse();
  ASSERT_TRUE(stream->WriteTurn(OnSession(TokenTurn("", {3}, 4), "s", "r")));
  ASSERT_TRUE(server.AwaitLoad(1, 1));
  ASSERT_TRUE(stream->WriteCancel());
  const Answer answer = stream->ReadTurn();
  ExpectCancelled(answer);
  EXPECT_TRUE(answer.tokens.empty());
}

TEST_F(Converse, ACancelledTurnWhoseTextWaitsToBeReadIsAnsweredAtOnce) {
  ASSERT_TRUE(
      client().Generate(OnSession(TokenTurn("", {1, 2}, 0), "s")).status.ok());
  const BusyReading others(server_, /*clients=*/2);
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(
      OnSession(TextTurn("", LongText(), 1 << 20), "s", "r")));
  ASSERT_TRUE(stream->WriteCancel());
  ExpectCancelled(stream->ReadTurn());
  // The stream goes on.
  ASSERT_TRUE(stream->WriteTurn(TokenTurn("", {3}, 0)));
  const Answer next = stream->ReadTurn();
  ASSERT_TRUE(next.completed.has_value()) << next.status;
  EXPECT_EQ(next.completed->version(), 2);
}

TEST_F(Converse, AHalfCloseDuringATurnLetsItEnd) {
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(OnSession(TokenTurn("", {1, 2}, 500), "s")));
  stream->WritesDone();
  const Answer answer = stream->ReadTurn();
  ASSERT_TRUE(answer.completed.has_value()) << answer.status;
  EXPECT_EQ(answer.tokens.size(), 500u);
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(client().GetSession("s")->version(), 1);
}

TEST_F(Converse, AStreamWithoutTurnsEndsWell) {
  const auto stream = client().Converse();
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(Converse, AnotherSessionInALaterTurnEndsTheStream) {
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(OnSession(TokenTurn("", {1}, 0), "s")));
  ASSERT_TRUE(stream->ReadTurn().completed.has_value());
  ASSERT_TRUE(stream->WriteTurn(OnSession(TokenTurn("", {1}, 0), "t")));
  const Answer answer = stream->ReadTurn();
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(answer.status.message()), HasSubstr("\"t\""));
  EXPECT_THAT(std::string(answer.status.message()), HasSubstr("\"s\""));
  EXPECT_EQ(client().GetSession("s")->version(), 1);
  EXPECT_FALSE(client().GetSession("t").ok());
}

TEST_F(Converse, ATurnThatIsRefusedEndsTheStreamWithItsStatus) {
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(OnSession(TokenTurn("", {1}, 0), "s")));
  ASSERT_TRUE(stream->ReadTurn().completed.has_value());
  v1::GenerateRequest wrong = TokenTurn("", {1}, 0);
  wrong.set_expected_version(7);
  ASSERT_TRUE(stream->WriteTurn(wrong));
  EXPECT_EQ(stream->ReadTurn().status.code(),
            absl::StatusCode::kFailedPrecondition);
  // What was committed before stays.
  EXPECT_EQ(client().GetSession("s")->version(), 1);
}

TEST_F(Converse, AMessageWithoutActionEndsTheStream) {
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->Write(v1::ConverseRequest()));
  EXPECT_EQ(stream->Finish().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(Converse, AMessageWithoutActionDuringATurnEndsTheStreamAfterIt) {
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(OnSession(TokenTurn("", {1, 2}, 2000), "s")));
  ASSERT_TRUE(stream->Write(v1::ConverseRequest()));
  const Answer answer = stream->ReadTurn();
  EXPECT_TRUE(answer.completed.has_value()) << answer.status;
  EXPECT_EQ(stream->Finish().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client().GetSession("s")->version(), 1);
}

TEST_F(Converse, AClientThatGoesAwayLeavesTheSessionAsItWas) {
  {
    const TestClient vanishing(server_.address());
    const auto stream = vanishing.Converse();
    ASSERT_TRUE(stream->WriteTurn(OnSession(TokenTurn("", {1, 2}, 0), "s")));
    ASSERT_TRUE(ReadCompleted(stream.get()).has_value());
    StartEndless(stream.get(), EndlessTurn(""), 2);
    ASSERT_TRUE(server_.AwaitLoad(1, 0));
  }
  ASSERT_TRUE(server_.AwaitLoad(0, 0));
  EXPECT_EQ(client().GetSession("s")->version(), 1);
}

TEST_F(Converse, ATurnOnASessionThatRunsElsewhereIsAborted) {
  const auto running = client().StartGenerate(OnSession(EndlessTurn(""), "s"));
  ASSERT_TRUE(running->ReadStarted());
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(OnSession(TokenTurn("", {1}, 0), "s")));
  EXPECT_EQ(stream->ReadTurn().status.code(), absl::StatusCode::kAborted);
}

TEST_F(Converse, AMessageOverTheLimitEndsTheStream) {
  ServerOptions options = ZooOptions({kInduction});
  options.max_message_bytes = 1000;
  TestServer server(options);
  const auto stream = server.client().Converse();
  ASSERT_TRUE(stream->WriteTurn(TextTurn("", std::string(1001, ' '), 1)));
  EXPECT_EQ(stream->Finish().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace engram
