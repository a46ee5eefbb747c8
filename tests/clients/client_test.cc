// The client against a scripted server: whatever breaks, the caller sees one
// Started, every token exactly once and one Completed, or one clear error.
#include "clients/cpp/client.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <optional>

#include "tests/clients/scripted_server.h"

namespace engram::client {
namespace {

using ::google::protobuf::util::MessageDifferencer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr int kAnswerTokens = 6;

const grpc::Status kUnavailable(grpc::StatusCode::UNAVAILABLE, "going down");
const grpc::Status kAborted(grpc::StatusCode::ABORTED, "a turn is running");

// A call that breaks after some tokens.
ScriptedCall BreakAfter(int tokens, grpc::Status status = kUnavailable) {
  ScriptedCall call;
  call.tokens = tokens;
  call.status = std::move(status);
  return call;
}

// A call that is refused before anything is sent.
ScriptedCall Refuse(grpc::Status status) {
  ScriptedCall call;
  call.status = std::move(status);
  call.send_started = false;
  return call;
}

// What a caller saw of one turn.
struct Seen {
  int started = 0;
  int completed = 0;
  std::vector<int> tokens;
  std::string text;
  absl::Status status;
  std::vector<absl::Duration> waits;
};

Seen RunTurn(const ScriptedServer& server, const v1::GenerateRequest& request,
             int retries = 3, CallOptions call = {},
             std::function<void(const v1::GenerateResponse&)> watch = {}) {
  Seen seen;
  ClientOptions options;
  options.server = server.address();
  options.retries = retries;
  options.wait_for_test = [&](absl::Duration wait) {
    seen.waits.push_back(wait);
  };
  Client client(options);
  seen.status = client.Generate(
      request,
      [&](const v1::GenerateResponse& response) {
        seen.started += response.has_started();
        seen.completed += response.has_completed();
        if (response.has_token()) {
          seen.tokens.push_back(response.token().id());
          seen.text += response.token().text();
        }
        if (watch) watch(response);
      },
      call);
  return seen;
}

v1::GenerateRequest SessionTurn() {
  v1::GenerateRequest request;
  request.set_session_id("session");
  request.set_expected_version(0);
  request.set_text("prompt");
  request.mutable_stopping()->set_max_tokens(kAnswerTokens);
  return request;
}

v1::GenerateRequest TurnWithoutSession() {
  v1::GenerateRequest request = SessionTurn();
  request.clear_session_id();
  request.clear_expected_version();
  return request;
}

void ExpectWholeAnswer(const Seen& seen) {
  EXPECT_TRUE(seen.status.ok()) << seen.status;
  EXPECT_EQ(seen.started, 1);
  EXPECT_EQ(seen.completed, 1);
  EXPECT_THAT(seen.tokens, ElementsAre(100, 101, 102, 103, 104, 105));
  EXPECT_EQ(seen.text, "0 1 2 3 4 5 ");
}

TEST(Client, WaitsAsLongAsTheServerAsksFor) {
  ScriptedServer server(kAnswerTokens, {Busy(7000), Busy(7000)});
  const Seen seen = RunTurn(server, SessionTurn());
  ExpectWholeAnswer(seen);
  ASSERT_EQ(seen.waits.size(), 2u);
  for (const absl::Duration wait : seen.waits) {
    EXPECT_GE(wait, absl::Seconds(7));
    EXPECT_LE(wait, absl::Milliseconds(10500));
  }
  // So that not all come back at once.
  EXPECT_NE(seen.waits[0], seen.waits[1]);
}

TEST(Client, PassesOnAnUnbrokenTurn) {
  ScriptedServer server(kAnswerTokens, {});
  const Seen seen = RunTurn(server, SessionTurn());
  ExpectWholeAnswer(seen);
  EXPECT_THAT(seen.waits, IsEmpty());
  EXPECT_EQ(server.requests().size(), 1u);
}

TEST(Client, ResumesWhereverTheStreamBreaks) {
  for (int k = 0; k <= kAnswerTokens; ++k) {
    SCOPED_TRACE(absl::StrCat("broken after ", k, " tokens"));
    ScriptedServer server(kAnswerTokens, {BreakAfter(k)});
    ExpectWholeAnswer(RunTurn(server, SessionTurn()));

    const std::vector<v1::GenerateRequest> requests = server.requests();
    ASSERT_EQ(requests.size(), 2u);
    EXPECT_THAT(requests[0].request_id(), Not(IsEmpty()));
    v1::GenerateRequest expected = requests[0];
    for (int i = 0; i < k; ++i) expected.add_received_token_ids(100 + i);
    // Nothing else may differ, or the server would take it for another request.
    EXPECT_TRUE(MessageDifferencer::Equals(requests[1], expected))
        << requests[1].DebugString();
  }
}

TEST(Client, ResumesAStreamThatBreaksAfterEveryToken) {
  ScriptedServer server(
      kAnswerTokens, std::vector<ScriptedCall>(kAnswerTokens, BreakAfter(1)));
  ExpectWholeAnswer(RunTurn(server, SessionTurn(), /*retries=*/1));
  EXPECT_EQ(server.requests().size(), kAnswerTokens + 1u);
}

TEST(Client, ResumesWithoutASessionByTheSeedThatTheServerTold) {
  for (int k = 0; k <= kAnswerTokens; ++k) {
    SCOPED_TRACE(absl::StrCat("broken after ", k, " tokens"));
    ScriptedServer server(kAnswerTokens, {BreakAfter(k)});
    ExpectWholeAnswer(RunTurn(server, TurnWithoutSession()));

    const std::vector<v1::GenerateRequest> requests = server.requests();
    ASSERT_EQ(requests.size(), 2u);
    EXPECT_FALSE(requests[0].sampling().has_seed());
    EXPECT_EQ(requests[1].sampling().seed(), ScriptedServer::kSeed);
    EXPECT_EQ(requests[1].request_id(), "made-up");
    EXPECT_EQ(requests[1].received_token_ids_size(), k);
  }
}

TEST(Client, KeepsTheRequestIdThatTheCallerChose) {
  ScriptedServer server(kAnswerTokens, {BreakAfter(2)});
  v1::GenerateRequest request = SessionTurn();
  request.set_request_id("mine");
  ExpectWholeAnswer(RunTurn(server, request));
  for (const v1::GenerateRequest& sent : server.requests()) {
    EXPECT_EQ(sent.request_id(), "mine");
  }
}

TEST(Client, WaitsWhileTheServerStillRunsTheBrokenCall) {
  ScriptedServer server(kAnswerTokens,
                        {BreakAfter(2), Refuse(kAborted), Refuse(kAborted)});
  const Seen seen = RunTurn(server, SessionTurn());
  ExpectWholeAnswer(seen);
  EXPECT_THAT(seen.waits, SizeIs(3));
}

TEST(Client, DoesNotWaitForSomebodyElsesTurn) {
  ScriptedServer server(kAnswerTokens, {Refuse(kAborted)});
  const Seen seen = RunTurn(server, SessionTurn());
  EXPECT_EQ(seen.status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(server.requests().size(), 1u);
}

TEST(Client, SeesNoTokenTwiceInAReplayFromTheStart) {
  ScriptedCall replay;
  replay.repeat_received = true;
  ScriptedServer server(kAnswerTokens, {BreakAfter(4), replay});
  ExpectWholeAnswer(RunTurn(server, SessionTurn()));
}

TEST(Client, GoesOnAfterTokensThatTheCallerHasAlready) {
  ScriptedServer server(kAnswerTokens, {BreakAfter(2)});
  v1::GenerateRequest request = SessionTurn();
  request.add_received_token_ids(100);
  request.add_received_token_ids(101);
  const Seen seen = RunTurn(server, request);
  EXPECT_TRUE(seen.status.ok()) << seen.status;
  EXPECT_THAT(seen.tokens, ElementsAre(102, 103, 104, 105));
}

TEST(Client, RefusesAnAnswerWithATokenMissing) {
  ScriptedCall skips;
  skips.skip_one = true;
  ScriptedServer server(kAnswerTokens, {skips});
  const Seen seen = RunTurn(server, SessionTurn());
  EXPECT_EQ(seen.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(seen.tokens, IsEmpty());
}

TEST(Client, RefusesAStreamThatEndsWithoutCompleted) {
  ScriptedCall call;
  call.send_completed = false;
  ScriptedServer server(kAnswerTokens, {call});
  const Seen seen = RunTurn(server, SessionTurn());
  EXPECT_EQ(seen.status.code(), absl::StatusCode::kInternal);
}

TEST(Client, GivesUpWhenRepeatsBringNothingNew) {
  ScriptedServer server(
      kAnswerTokens, {BreakAfter(2), Refuse(kUnavailable), Refuse(kUnavailable),
                      Refuse(kUnavailable), Refuse(kUnavailable)});
  const Seen seen = RunTurn(server, SessionTurn(), /*retries=*/3);
  EXPECT_EQ(seen.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(seen.status.message()),
              HasSubstr("going down (gave up after 3 repeats)"));
  EXPECT_THAT(seen.tokens, ElementsAre(100, 101));
  EXPECT_EQ(server.requests().size(), 4u);
}

TEST(Client, DoesNotRepeatWithoutRetries) {
  ScriptedServer server(kAnswerTokens, {Refuse(kUnavailable)});
  const Seen seen = RunTurn(server, SessionTurn(), /*retries=*/0);
  EXPECT_EQ(seen.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(seen.status.message(), "going down");
  EXPECT_EQ(server.requests().size(), 1u);
}

TEST(Client, WaitsGrowAndStartAgainWithProgress) {
  ScriptedServer server(kAnswerTokens,
                        {BreakAfter(0), BreakAfter(0), BreakAfter(1)});
  const Seen seen = RunTurn(server, SessionTurn());
  ASSERT_THAT(seen.waits, SizeIs(3));
  const absl::Duration longest[] = {absl::Milliseconds(100),
                                    absl::Milliseconds(200),
                                    absl::Milliseconds(100)};
  for (int i = 0; i < 3; ++i) {
    EXPECT_GE(seen.waits[i], longest[i] / 2);
    EXPECT_LE(seen.waits[i], longest[i]);
  }
}

TEST(Client, DoesNotRepeatWhatTheServerRefuses) {
  for (grpc::StatusCode code :
       {grpc::StatusCode::INVALID_ARGUMENT, grpc::StatusCode::NOT_FOUND,
        grpc::StatusCode::FAILED_PRECONDITION, grpc::StatusCode::ALREADY_EXISTS,
        grpc::StatusCode::INTERNAL, grpc::StatusCode::CANCELLED,
        grpc::StatusCode::DEADLINE_EXCEEDED, grpc::StatusCode::UNIMPLEMENTED,
        grpc::StatusCode::RESOURCE_EXHAUSTED}) {
    SCOPED_TRACE(code);
    ScriptedServer server(kAnswerTokens, {Refuse({code, "no"})});
    const Seen seen = RunTurn(server, SessionTurn());
    EXPECT_EQ(static_cast<int>(seen.status.code()), code);
    EXPECT_EQ(seen.status.message(), "no");
    EXPECT_EQ(server.requests().size(), 1u);
  }
}

TEST(Client, ResumesAfterHavingReadTooSlowly) {
  ScriptedServer server(
      kAnswerTokens,
      {BreakAfter(3, {grpc::StatusCode::RESOURCE_EXHAUSTED, "slow reader"})});
  ExpectWholeAnswer(RunTurn(server, SessionTurn()));
}

TEST(Client, ResumesAStreamThatAProxyCutOff) {
  ScriptedServer server(
      kAnswerTokens,
      {BreakAfter(3, {grpc::StatusCode::INTERNAL,
                      "Received RST_STREAM with error code 2"})});
  ExpectWholeAnswer(RunTurn(server, SessionTurn()));
}

TEST(Client, CancelEndsTheTurn) {
  ScriptedCall waits;
  waits.tokens = 2;
  waits.hangs = true;
  ScriptedServer server(kAnswerTokens, {waits});
  Cancellation cancellation;
  const Seen seen = RunTurn(
      server, SessionTurn(), /*retries=*/3, {.cancellation = &cancellation},
      [&](const v1::GenerateResponse& response) {
        if (response.has_token() && response.token().index() == 1) {
          cancellation.Cancel();
        }
      });
  EXPECT_EQ(seen.status.code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(seen.tokens, ElementsAre(100, 101));
  EXPECT_EQ(server.requests().size(), 1u);
}

TEST(Client, NothingRunsOnceCancelled) {
  ScriptedServer server(kAnswerTokens, {});
  Cancellation cancellation;
  cancellation.Cancel();
  const Seen seen = RunTurn(server, SessionTurn(), /*retries=*/3,
                            {.cancellation = &cancellation});
  EXPECT_EQ(seen.status.code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(seen.tokens, IsEmpty());
}

TEST(Client, DoesNotWaitBeyondTheDeadline) {
  ScriptedServer server(kAnswerTokens, {Refuse(kUnavailable)});
  // Shorter than the shortest wait.
  const Seen seen =
      RunTurn(server, SessionTurn(), /*retries=*/3, {absl::Milliseconds(40)});
  EXPECT_EQ(seen.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(seen.waits, IsEmpty());
}

TEST(Client, FindsAServerThatCameBack) {
  const std::string address =
      absl::StrCat("unix:", ::testing::TempDir(), "/engram_client_", getpid());
  std::optional<ScriptedServer> server;
  ClientOptions options;
  options.server = address;
  // With the real waits: gRPC must connect while they last.
  options.on_repeat = [&](const absl::Status&, absl::Duration) {
    if (!server.has_value()) {
      server.emplace(kAnswerTokens, std::vector<ScriptedCall>(), address);
    }
  };
  Client client(options);
  int tokens = 0;
  const absl::Status status =
      client.Generate(SessionTurn(), [&](const v1::GenerateResponse& response) {
        tokens += response.has_token();
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(tokens, kAnswerTokens);
}

TEST(Client, ReadsAreRepeatedWhenTheServerCannotBeReached) {
  int waits = 0;
  ClientOptions options;
  options.server = "unix:/no/such/socket";
  options.retries = 2;
  options.wait_for_test = [&](absl::Duration) { ++waits; };
  Client client(options);
  EXPECT_EQ(client.ListModels().status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(waits, 2);
  // Whereas a second Create would find what the first one may have made.
  EXPECT_EQ(client.CreateSession({}).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(waits, 2);
}

TEST(Client, TellsTheSessionOfEveryCallAsMetadata) {
  ScriptedServer server(kAnswerTokens, {});
  server.AddSession("s", 1);
  ClientOptions options;
  options.server = server.address();
  Client client(options);
  const auto ignore = [](const v1::GenerateResponse&) {};

  v1::GenerateRequest turn = SessionTurn();
  turn.set_session_id("s");
  EXPECT_TRUE(client.Generate(turn, ignore).ok());
  EXPECT_TRUE(client.Generate(TurnWithoutSession(), ignore).ok());
  v1::ScoreRequest score;
  score.set_session_id("s");
  EXPECT_TRUE(client.Score(score).ok());
  EXPECT_TRUE(client.SessionVersion("s").ok());
  v1::CreateSessionRequest create;
  create.set_session_id("new");
  EXPECT_TRUE(client.CreateSession(create).ok());
  v1::ForkSessionRequest fork;
  fork.set_session_id("s");
  fork.set_new_session_id("t");
  EXPECT_TRUE(client.ForkSession(fork).ok());
  v1::DeleteSessionRequest remove;
  remove.set_session_id("s");
  EXPECT_FALSE(client.DeleteSession(remove).ok());  // Not by this server.
  EXPECT_TRUE(client.ListSessions({}).ok());
  EXPECT_THAT(server.told_sessions(),
              ElementsAre("Generate s", "Generate ", "Score s", "Get s",
                          "Create new", "Fork s", "Delete s", "List "));
}

TEST(Client, TellsTheCheckpointWhereNoSessionIsNamed) {
  ScriptedServer server(kAnswerTokens, {});
  ClientOptions options;
  options.server = server.address();
  Client client(options);

  v1::GenerateRequest turn = TurnWithoutSession();
  turn.set_from_checkpoint("g:c");
  EXPECT_TRUE(client.Generate(turn, [](const auto&) {}).ok());
  turn.set_session_id("s");
  EXPECT_TRUE(client.Generate(turn, [](const auto&) {}).ok());
  v1::ScoreRequest score;
  score.set_from_checkpoint("g:c");
  EXPECT_TRUE(client.Score(score).ok());
  v1::ForkSessionRequest fork;
  fork.set_from_checkpoint("g:c");
  EXPECT_TRUE(client.ForkSession(fork).ok());
  v1::CheckpointSessionRequest create;
  create.set_session_id("s");
  create.set_checkpoint_id("g:c");
  EXPECT_EQ(client.CreateCheckpoint(create)->checkpoint_id(), "g:c");
  EXPECT_EQ(client.ListCheckpoints({})->checkpoints_size(), 1);
  v1::DeleteCheckpointRequest remove;
  remove.set_checkpoint_id("g:c");
  EXPECT_EQ(client.DeleteCheckpoint(remove).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_THAT(
      server.told_sessions(),
      ElementsAre("Generate g:c", "Generate s", "Score g:c", "Fork g:c",
                  "Checkpoint s", "ListCheckpoints ", "DeleteCheckpoint g:c"));
}

TEST(Client, HandsAnExportedStateOnPartByPart) {
  ScriptedServer server(kAnswerTokens, {});
  ClientOptions options;
  options.server = server.address();
  Client client(options);
  v1::ExportRequest request;
  request.set_session_id("s");
  std::vector<std::string> parts;
  const absl::Status status =
      client.Export(request, [&](absl::string_view part) {
        parts.emplace_back(part);
        return absl::OkStatus();
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(parts, ElementsAre("one", "two", "three"));
  request.set_checkpoint_id("g:c");
  const absl::Status full = absl::InvalidArgumentError("the disk is full");
  EXPECT_EQ(client.Export(request, [&](absl::string_view) { return full; }),
            full);
  EXPECT_THAT(server.told_sessions(), ElementsAre("Export s", "Export g:c"));
}

TEST(Client, SendsAStateToImportPartByPart) {
  ScriptedServer server(kAnswerTokens, {});
  ClientOptions options;
  options.server = server.address();
  Client client(options);
  v1::ImportHeader header;
  header.set_session_id("s");
  std::vector<std::string> parts = {"", "two", "one"};
  const auto next = [&]() -> absl::StatusOr<std::string> {
    std::string part = parts.back();
    parts.pop_back();
    return part;
  };
  const auto imported = client.Import(header, next);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(imported->session().session_id(), "s");
  EXPECT_EQ(imported->session().model(), "one+two");
  header.set_checkpoint_id("g:c");
  const absl::Status unreadable = absl::InvalidArgumentError("no such file");
  const auto refused = client.Import(
      header, [&]() -> absl::StatusOr<std::string> { return unreadable; });
  EXPECT_EQ(refused.status(), unreadable);
  // Whoever gives up at once may not have reached the server.
  EXPECT_EQ(server.told_sessions()[0], "Import s");
}

TEST(Client, MakesUpTheIdOfANewSessionSoThatItCanTellIt) {
  ScriptedServer server(kAnswerTokens, {});
  ClientOptions options;
  options.server = server.address();
  Client client(options);
  const absl::StatusOr<v1::Session> made = client.CreateSession({});
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_THAT(made->session_id(), SizeIs(32));
  EXPECT_THAT(server.told_sessions(),
              ElementsAre(absl::StrCat("Create ", made->session_id())));
}

// Metadata that HTTP/2 cannot carry would end the process.
TEST(Client, LeavesAnIdThatIsNoneToTheServer) {
  ScriptedServer server(kAnswerTokens, {});
  ClientOptions options;
  options.server = server.address();
  Client client(options);
  for (const std::string& id :
       {std::string("two words"), std::string("line\n"), std::string("\0", 1),
        std::string("\xc3\xa9"), std::string(100'000, 'x')}) {
    v1::GetSessionRequest request;
    request.set_session_id(id);
    EXPECT_EQ(client.GetSession(request).status().code(),
              absl::StatusCode::kNotFound);
  }
  for (const std::string& told : server.told_sessions()) {
    EXPECT_EQ(told, "Get ");
  }
}

TEST(Client, NeverSendsWhatIsNotUtf8) {
  ScriptedServer server(kAnswerTokens, {});
  v1::GenerateRequest request = TurnWithoutSession();
  request.mutable_stopping()->add_stop("fine");
  request.mutable_stopping()->add_stop("ab\xff");
  const Seen seen = RunTurn(server, request);
  EXPECT_EQ(seen.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(seen.status.message(), "stop: byte 3 (0xff) is not UTF-8");
  EXPECT_THAT(server.requests(), IsEmpty());
}

TEST(Client, RefusesAnAddressThatIsNone) {
  ClientOptions options;
  options.server = "https://localhost";
  const absl::Status status = Client(options).ListModels().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("asks for TLS"));
}

TEST(Client, TellsWhetherTheServerItselfHasRefused) {
  ScriptedServer server(kAnswerTokens, {Refuse(kUnavailable)});
  const Seen refused = RunTurn(server, SessionTurn(), /*retries=*/0);
  EXPECT_EQ(EndOf(refused.status), CallEnd::kAnswered) << refused.status;

  ScriptedServer busy(kAnswerTokens,
                      std::vector<ScriptedCall>(3, Refuse(kUnavailable)));
  const Seen gave_up = RunTurn(busy, SessionTurn(), /*retries=*/2);
  EXPECT_EQ(EndOf(gave_up.status), CallEnd::kAnswered) << gave_up.status;

  ClientOptions options;
  options.server = "unix:/no/such/socket";
  options.retries = 0;
  Client nobody(options);
  EXPECT_EQ(EndOf(nobody.ListModels().status()), CallEnd::kNotReached);

  // A deadline that passes between the repeats still tells why they failed.
  // Waits grow up to 5 s, of which none is waited here.
  options.retries = 100;
  options.wait_for_test = [](absl::Duration) {};
  const absl::Status late =
      Client(options).ListModels({.deadline = absl::Seconds(4)}).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(EndOf(late), CallEnd::kNotReached) << late;
}

}  // namespace
}  // namespace engram::client
