// Sessions of the whole server: many at once, turns as transactions, what a
// client that goes away leaves behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "tests/integration/server_fixture.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

// One turn as a client remembers it.
struct PastTurn {
  std::vector<int32_t> prompt;
  Answer answer;
};

// A session's history up to, not including, turn `end`, with that turn's
// prompt: what a call without memory is to be given to say the same.
std::vector<int32_t> WholePrompt(const std::vector<PastTurn>& turns,
                                 size_t end) {
  std::vector<int32_t> whole;
  for (size_t i = 0; i <= end; ++i) {
    whole.insert(whole.end(), turns[i].prompt.begin(), turns[i].prompt.end());
    if (i == end) break;
    for (int32_t id : turns[i].answer.ids()) whole.push_back(id);
  }
  return whole;
}

v1::GenerateRequest SampledTurn(const std::vector<int32_t>& prompt,
                                int64_t seed) {
  v1::GenerateRequest request = TokenTurn(kEnglish, prompt, 6);
  request.set_logprobs(1);
  request.mutable_sampling()->set_temperature(0.9f);
  request.mutable_sampling()->set_seed(seed);
  request.mutable_stopping()->set_ignore_eos(true);
  return request;
}

TEST(Sessions, SixtyFourAtOnceEqualCallsWithoutMemory) {
  const int sessions = Scaled(64, 12);
  constexpr int kTurns = 3;
  ServerOptions options = ZooOptions({kEnglish});
  options.slots = 8;
  TestServer server(options);

  std::vector<std::vector<PastTurn>> history(sessions);
  RunAtOnce(sessions, [&](int session) {
    std::mt19937 random(static_cast<uint32_t>(session));
    const TestClient client(server.address());
    for (int turn = 0; turn < kTurns; ++turn) {
      PastTurn past;
      const int tokens = 1 + static_cast<int>(random() % 12);
      for (int i = 0; i < tokens; ++i) {
        past.prompt.push_back(static_cast<int32_t>(1 + random() % 2000));
      }
      v1::GenerateRequest request =
          OnSession(SampledTurn(past.prompt, 1000 * session + turn),
                    absl::StrCat("session-", session));
      request.set_expected_version(turn);
      past.answer = client.Generate(request);
      history[session].push_back(std::move(past));
    }
  });

  int64_t cached_tokens = 0;
  for (int session = 0; session < sessions; ++session) {
    for (int turn = 0; turn < kTurns; ++turn) {
      SCOPED_TRACE(absl::StrCat("session ", session, " turn ", turn));
      const Answer& said = history[session][turn].answer;
      ASSERT_TRUE(said.status.ok()) << said.status;
      EXPECT_TRUE(said.in_order);
      EXPECT_EQ(said.started->version(), turn);
      EXPECT_EQ(said.completed->version(), turn + 1);
      cached_tokens += said.completed->usage().cached_tokens();
      const Answer alone = server.client().Generate(SampledTurn(
          WholePrompt(history[session], turn), 1000 * session + turn));
      ASSERT_TRUE(alone.status.ok()) << alone.status;
      ASSERT_EQ(said.ids(), alone.ids());
      ASSERT_EQ(said.logprobs(), alone.logprobs());
      EXPECT_EQ(said.completed->position(), alone.completed->position());
    }
  }
  const MetricsPage page = server.Metrics();
  EXPECT_EQ(page.Sum("sessions"), sessions);
  EXPECT_EQ(page.Sum("sessions", {"tier=\"slot\""}) +
                page.Sum("sessions", {"tier=\"ram\""}),
            sessions);
  EXPECT_GT(page.Sum("session_evictions_total", {"to=\"ram\""}), 0);
  EXPECT_GT(page.Sum("session_restores_total"), 0);
  EXPECT_EQ(page.Sum("tokens_saved_total"), cached_tokens);
}

// --- One turn at a time, each a transaction.

class Turns : public ServerFixture {
 protected:
  Turns() : ServerFixture(InductionOptions(/*slots=*/4)) {}

  // Session `id` with one committed turn of three tokens.
  void Begin(const std::string& id) {
    const Answer answer =
        client().Generate(OnSession(TokenTurn("", {1, 2, 3}, 0), id, "first"));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
  }
  void ExpectVersion(const std::string& id, int64_t version,
                     int64_t position) const {
    const auto session = client().GetSession(id);
    ASSERT_TRUE(session.ok()) << session.status();
    EXPECT_EQ(session->version(), version);
    EXPECT_EQ(session->position(), position);
  }
};

TEST_F(Turns, ASecondTurnOnASessionIsAborted) {
  const auto running =
      client().StartGenerate(OnSession(EndlessTurn(""), "s", "endless"));
  ASSERT_TRUE(running->ReadStarted());
  for (const char* request_id : {"other", "endless"}) {
    const Answer second =
        client().Generate(OnSession(TokenTurn("", {1}, 1), "s", request_id));
    EXPECT_EQ(second.status.code(), absl::StatusCode::kAborted);
    EXPECT_THAT(std::string(second.status.message()), HasSubstr("\"s\""));
  }
}

TEST_F(Turns, ACallThatIsCancelledLeavesTheSessionAsItWas) {
  Begin("s");
  const auto running =
      client().StartGenerate(OnSession(EndlessTurn(""), "s", "endless"));
  ASSERT_TRUE(running->ReadStarted());
  v1::GenerateResponse token;
  ASSERT_TRUE(running->Read(&token));
  running->Cancel();
  EXPECT_EQ(running->ReadAll().status.code(), absl::StatusCode::kCancelled);
  ASSERT_TRUE(server_.AwaitLoad(0, 0));
  ExpectVersion("s", 1, 3);
  // Its id has not committed: it may run again.
  const Answer again =
      client().Generate(OnSession(TokenTurn("", {4}, 2), "s", "endless"));
  EXPECT_TRUE(again.status.ok()) << again.status;
  ExpectVersion("s", 2, 5);
}

TEST_F(Turns, ANewSessionWhoseFirstTurnIsCancelledIsGone) {
  const auto running = client().StartGenerate(OnSession(EndlessTurn(""), "s"));
  ASSERT_TRUE(running->ReadStarted());
  EXPECT_EQ(client().GetSession("s").status().code(),
            absl::StatusCode::kNotFound);
  running->Cancel();
  ASSERT_TRUE(server_.AwaitLoad(0, 0));
  EXPECT_EQ(client().GetSession("s").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(server_.Metrics().Sum("slots_used"), 0);
}

TEST_F(Turns, AClientThatGoesAwayFreesItsSlot) {
  Begin("s");
  ASSERT_TRUE(
      Eventually([&] { return server_.Metrics().Sum("slots_used") == 1; }));
  {
    auto vanishing = std::make_unique<TestClient>(server_.address());
    auto running = vanishing->StartGenerate(OnSession(EndlessTurn(""), "s"));
    ASSERT_TRUE(running->ReadStarted());
    ASSERT_TRUE(Eventually([&] {
      const MetricsPage page = server_.Metrics();
      return page.Sum("num_requests_running") == 1 &&
             page.Sum("slots_used") == 2;
    }));
  }
  EXPECT_TRUE(Eventually([&] {
    const MetricsPage page = server_.Metrics();
    return page.Sum("num_requests_running") == 0 && page.Sum("slots_used") == 1;
  }));
  ExpectVersion("s", 1, 3);
}

TEST_F(Turns, AWaitingCallThatIsCancelledLeavesTheQueue) {
  std::vector<std::unique_ptr<GenerateStream>> running;
  for (int i = 0; i < 4; ++i) {
    running.push_back(client().StartGenerate(EndlessTurn("")));
    ASSERT_TRUE(running.back()->ReadStarted());
  }
  const auto waiting = client().StartGenerate(OnSession(EndlessTurn(""), "s"));
  ASSERT_TRUE(server_.AwaitLoad(4, 1));
  waiting->Cancel();
  EXPECT_TRUE(server_.AwaitLoad(4, 0));
}

TEST_F(Turns, KeepPartialCommitsTheFragmentAndARepeatReplaysIt) {
  Begin("s");
  v1::GenerateRequest request = OnSession(EndlessTurn(""), "s", "endless");
  request.set_keep_partial(true);
  const auto running = client().StartGenerate(request);
  ASSERT_TRUE(running->ReadStarted());
  v1::GenerateResponse token;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(running->Read(&token));
  running->Cancel();
  const Answer seen = running->ReadAll();
  EXPECT_EQ(seen.status.code(), absl::StatusCode::kCancelled);
  ASSERT_TRUE(server_.AwaitLoad(0, 0));

  const Answer replay = client().Generate(request);
  ASSERT_TRUE(replay.status.ok()) << replay.status;
  EXPECT_TRUE(replay.in_order);
  EXPECT_EQ(replay.completed->finish_reason(), v1::CANCELLED);
  EXPECT_EQ(replay.completed->version(), 2);
  const std::vector<int32_t> kept = replay.ids();
  ASSERT_GE(kept.size(), seen.tokens.size());
  const std::vector<int32_t> seen_ids = seen.ids();
  EXPECT_TRUE(std::equal(seen_ids.begin(), seen_ids.end(), kept.begin()));
  // First turn 3, this prompt 3, and all tokens but the last.
  ExpectVersion("s", 2, 3 + 3 + static_cast<int64_t>(kept.size()) - 1);
  EXPECT_TRUE(client().GetSession("s")->pending_token());

  // An empty prompt goes on from the fragment's pending token.
  v1::GenerateRequest on = OnSession(EndlessTurn(""), "s", "on");
  on.clear_prompt();
  on.mutable_stopping()->set_max_tokens(3);
  const Answer rest = client().Generate(on);
  ASSERT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.completed->position(), replay.completed->position() + 3);
}

// Runs an endless turn to its deadline, on a session with one turn that
// `request` names in the end. Again, on another session and with a longer
// deadline, if that passed before the first token was read; `*late` counts
// them.
Answer RunToDeadline(const TestClient& client, v1::GenerateRequest* request,
                     int* late) {
  for (absl::Duration deadline = absl::Milliseconds(200);;
       deadline = 3 * deadline) {
    ++*late;
    *request = OnSession(
        *request, absl::StrCat("s-", absl::FormatDuration(deadline)), "late");
    const Answer first = client.Generate(
        OnSession(TokenTurn("", {1, 2, 3}, 0), request->session_id(), "first"));
    EXPECT_TRUE(first.status.ok()) << first.status;
    const auto running = client.StartGenerate(*request, deadline);
    v1::GenerateResponse response;
    const bool token = running->ReadStarted() && running->Read(&response);
    Answer answer = running->ReadAll();
    EXPECT_EQ(answer.status.code(), absl::StatusCode::kDeadlineExceeded);
    if (token) return answer;
    if (deadline >= kTestLimit) {
      ADD_FAILURE() << "no token within " << deadline;
      return answer;
    }
  }
}

TEST_F(Turns, ADeadlineEndsATurnAndLeavesTheSessionAsItWas) {
  v1::GenerateRequest request = EndlessTurn("");
  int late = 0;
  RunToDeadline(client(), &request, &late);
  ASSERT_TRUE(server_.AwaitLoad(0, 0));
  ExpectVersion(request.session_id(), 1, 3);
  const auto counted = [&] {
    return server_.Metrics().Sum("requests_total",
                                 {"code=\"DEADLINE_EXCEEDED\""});
  };
  EXPECT_TRUE(Eventually([&] { return counted() >= 1; }));
  // A call may end before the server has heard of it.
  EXPECT_LE(counted(), late);
}

TEST_F(Turns, ADeadlineWithKeepPartialCommitsTheFragment) {
  v1::GenerateRequest request = EndlessTurn("");
  request.set_keep_partial(true);
  int late = 0;
  const Answer answer = RunToDeadline(client(), &request, &late);
  ASSERT_TRUE(server_.AwaitLoad(0, 0));
  EXPECT_EQ(client().GetSession(request.session_id())->version(), 2);
  const Answer replay = client().Generate(request);
  ASSERT_TRUE(replay.status.ok()) << replay.status;
  EXPECT_EQ(replay.completed->finish_reason(), v1::CANCELLED);
  const std::vector<int32_t> kept = replay.ids();
  const std::vector<int32_t> seen = answer.ids();
  ASSERT_GE(kept.size(), seen.size());
  EXPECT_TRUE(std::equal(seen.begin(), seen.end(), kept.begin()));
}

TEST_F(Turns, DeleteEndsARunningTurnWithCancelled) {
  Begin("s");
  v1::GenerateRequest request = OnSession(EndlessTurn(""), "s");
  request.set_keep_partial(true);  // there is nothing left to keep it in
  const auto running = client().StartGenerate(request);
  ASSERT_TRUE(running->ReadStarted());
  ASSERT_TRUE(client().DeleteSession("s").ok());
  EXPECT_EQ(client().GetSession("s").status().code(),
            absl::StatusCode::kNotFound);
  const Answer answer = running->ReadAll();
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(std::string(answer.status.message()), HasSubstr("deleted"));
  EXPECT_TRUE(
      Eventually([&] { return server_.Metrics().Sum("slots_used") == 0; }));
  // The id is free for a new session.
  Begin("s");
  ExpectVersion("s", 1, 3);
}

TEST_F(Turns, WhileATurnRunsOthersSeeTheLastCommit) {
  Begin("s");
  const auto running = client().StartGenerate(OnSession(EndlessTurn(""), "s"));
  ASSERT_TRUE(running->ReadStarted());
  ExpectVersion("s", 1, 3);
  const auto score = client().Score(TokenScore("", {4, 5}, "s"));
  ASSERT_TRUE(score.ok()) << score.status();
  EXPECT_EQ(score->position(), 3);
  const auto fork = client().Fork("s", "t");
  ASSERT_TRUE(fork.ok()) << fork.status();
  EXPECT_EQ(fork->version(), 1);
  EXPECT_EQ(fork->position(), 3);
}

// A reader that takes nothing: the network between holds some tens of
// kilobytes, which big messages fill quickly.
TEST_F(Turns, ASlowReaderIsEndedAndMayResume) {
  ServerOptions options = InductionOptions(/*slots=*/1);
  options.stream_tokens = 4;
  options.slow_reader_timeout = absl::Milliseconds(100);
  TestServer server(options);
  v1::GenerateRequest request = OnSession(EndlessTurn(""), "s", "slow");
  request.set_logprobs(16);
  const auto running = server.client().StartGenerate(request);
  ASSERT_TRUE(running->ReadStarted());
  // Its slot is another's while it still has not read a thing.
  ASSERT_TRUE(server.AwaitLoad(0, 0));
  EXPECT_TRUE(server.client().Generate(TokenTurn("", {1}, 1)).status.ok());
  const Answer answer = running->ReadAll();
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(answer.status.message()),
              HasSubstr("limit 100ms (--slow-reader-timeout)"));
  EXPECT_TRUE(answer.in_order);
  ASSERT_GT(answer.tokens.size(), 4u);

  // It resumes, and the whole is what one call would have said.
  v1::GenerateRequest rest = request;
  rest.mutable_stopping()->set_max_tokens(
      static_cast<int>(answer.tokens.size()) + 8);
  for (int32_t id : answer.ids()) rest.add_received_token_ids(id);
  const Answer resumed = server.client().Generate(rest);
  ASSERT_TRUE(resumed.status.ok()) << resumed.status;
  ASSERT_EQ(resumed.tokens.size(), 8u);
  EXPECT_EQ(resumed.tokens[0].index(), static_cast<int>(answer.tokens.size()));
  EXPECT_EQ(resumed.completed->version(), 1);
  v1::GenerateRequest once = rest;
  once.clear_session_id();
  once.clear_received_token_ids();
  once.mutable_sampling()->set_seed(answer.started->seed());
  TestServer patient(ZooOptions({kInduction}));
  const Answer whole = patient.client().Generate(once);
  ASSERT_TRUE(whole.status.ok()) << whole.status;
  std::vector<int32_t> ids = answer.ids();
  for (int32_t id : resumed.ids()) ids.push_back(id);
  EXPECT_EQ(ids, whole.ids());
}

// --- Versions and repeats.

// All of a replay but the time it took, which is that of the first run.
void ExpectSameAnswer(const Answer& repeat, const Answer& first) {
  ASSERT_TRUE(repeat.status.ok()) << repeat.status;
  EXPECT_EQ(repeat.started->SerializeAsString(),
            first.started->SerializeAsString());
  ASSERT_EQ(repeat.tokens.size(), first.tokens.size());
  for (size_t i = 0; i < repeat.tokens.size(); ++i) {
    EXPECT_EQ(repeat.tokens[i].SerializeAsString(),
              first.tokens[i].SerializeAsString());
  }
  EXPECT_EQ(repeat.completed->SerializeAsString(),
            first.completed->SerializeAsString());
}

TEST_F(Turns, ARepeatOfACommittedRequestGetsTheVerySameMessages) {
  TestServer server(ZooOptions({kEnglish}));
  v1::GenerateRequest request =
      OnSession(TextTurn(kEnglish, "Blessed are the", 16), "s", "one");
  request.set_expected_version(0);
  request.set_logprobs(3);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_stopping()->add_stop(" th");
  const Answer first = server.client().Generate(request);
  ASSERT_TRUE(first.status.ok()) << first.status;
  ExpectSameAnswer(server.client().Generate(request), first);
  // The condition is for a turn that is run, not for one that is told again.
  for (const int64_t version : {1, 7}) {
    v1::GenerateRequest other = request;
    other.set_expected_version(version);
    ExpectSameAnswer(server.client().Generate(other), first);
  }
  v1::GenerateRequest unconditional = request;
  unconditional.clear_expected_version();
  ExpectSameAnswer(server.client().Generate(unconditional), first);
  EXPECT_EQ(server.client().GetSession("s")->version(), 1);

  // From after the tokens that the client has.
  v1::GenerateRequest rest = request;
  rest.add_received_token_ids(first.ids()[0]);
  const Answer tail = server.client().Generate(rest);
  ASSERT_TRUE(tail.status.ok()) << tail.status;
  ASSERT_EQ(tail.tokens.size(), first.tokens.size() - 1);
  for (size_t i = 0; i < tail.tokens.size(); ++i) {
    EXPECT_EQ(tail.tokens[i].SerializeAsString(),
              first.tokens[i + 1].SerializeAsString());
  }

  v1::GenerateRequest different = rest;
  different.set_received_token_ids(0, first.ids()[0] + 1);
  EXPECT_EQ(server.client().Generate(different).status.code(),
            absl::StatusCode::kFailedPrecondition);
  v1::GenerateRequest other = request;
  other.set_text("Blessed is the");
  EXPECT_EQ(server.client().Generate(other).status.code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(Turns, AnOlderRequestIdIsNeverRunAgain) {
  Begin("s");
  ASSERT_TRUE(client()
                  .Generate(OnSession(TokenTurn("", {4}, 0), "s", "second"))
                  .status.ok());
  const Answer old =
      client().Generate(OnSession(TokenTurn("", {1, 2, 3}, 0), "s", "first"));
  EXPECT_EQ(old.status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(old.status.message()), HasSubstr("version 1"));
  ExpectVersion("s", 2, 4);
}

TEST_F(Turns, AnIdThatMayBeForgottenIsRefusedUnlessTheRequestIsSurelyNew) {
  ServerOptions options = ZooOptions({kInduction});
  options.remembered_turns = 3;
  TestServer server(options);
  const auto turn = [&](const std::string& request_id) {
    return server.client().Generate(
        OnSession(TokenTurn("", {4}, 0), "s", request_id));
  };
  const Answer first = turn("");
  ASSERT_TRUE(first.status.ok()) << first.status;
  for (int i = 2; i <= 4; ++i) {
    ASSERT_TRUE(turn(absl::StrCat("r", i)).status.ok());
  }
  // The server's own id tells when it was made, and no id at all is a new one.
  EXPECT_EQ(turn(first.started->request_id()).status.code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(turn("r2").status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(turn("r5").status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(turn("").status.ok());
  v1::GenerateRequest sure = OnSession(TokenTurn("", {4}, 0), "s", "r6");
  sure.set_expected_version(5);
  EXPECT_TRUE(server.client().Generate(sure).status.ok());
  EXPECT_EQ(server.client().GetSession("s")->version(), 6);
}

TEST_F(Turns, AnotherVersionThanExpectedIsRefusedWithTheActualOne) {
  Begin("s");
  v1::GenerateRequest request = OnSession(TokenTurn("", {4}, 0), "s");
  for (const int64_t wrong : {0, 2}) {
    request.set_expected_version(wrong);
    const Answer answer = client().Generate(request);
    EXPECT_EQ(answer.status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(answer.status.message()), HasSubstr("version 1"));
  }
  request.set_expected_version(1);
  EXPECT_TRUE(client().Generate(request).status.ok());
  request.set_session_id("another");
  EXPECT_EQ(client().Generate(request).status.code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(Turns, AnEmptyPromptNeedsAPendingToken) {
  Begin("s");
  v1::GenerateRequest request = OnSession(TokenTurn("", {}, 1), "s");
  EXPECT_EQ(client().Generate(request).status.code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client().Generate(TokenTurn("", {}, 1)).status.code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(
      client().Generate(OnSession(TokenTurn("", {4}, 1), "s")).status.ok());
  EXPECT_TRUE(client().Generate(request).status.ok());
}

// --- The Sessions service.

TEST_F(Turns, SessionsAreCreatedListedForkedAndDeleted) {
  v1::CreateSessionRequest create;
  create.set_session_id("b");
  (*create.mutable_labels())["owner"] = "test";
  create.mutable_time_to_live()->set_seconds(3600);
  const auto created = client().CreateSession(create);
  ASSERT_TRUE(created.ok()) << created.status();
  EXPECT_EQ(created->tier(), "none");
  EXPECT_EQ(created->version(), 0);
  EXPECT_EQ(created->model(), kInduction);
  EXPECT_EQ(created->labels().at("owner"), "test");
  EXPECT_EQ(created->expire_time().seconds() - created->create_time().seconds(),
            3600);
  EXPECT_EQ(client().CreateSession(create).status().code(),
            absl::StatusCode::kAlreadyExists);
  v1::CreateSessionRequest nameless;
  EXPECT_FALSE(client().CreateSession(nameless)->session_id().empty());

  Begin("a");
  const auto fork = client().Fork("a", "c");
  ASSERT_TRUE(fork.ok()) << fork.status();
  EXPECT_EQ(fork->position(), 3);
  EXPECT_EQ(fork->state_bytes(), client().GetModel("")->state_bytes());
  EXPECT_EQ(client().Fork("a", "c").status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(client().Fork("nobody", "d").status().code(),
            absl::StatusCode::kNotFound);

  ASSERT_TRUE(client().DeleteSession("a").ok());
  EXPECT_EQ(client().DeleteSession("a").code(), absl::StatusCode::kNotFound);
  ExpectVersion("c", 1, 3);
}

TEST_F(Turns, ListGivesEverySessionOncePageByPage) {
  for (int i = 0; i < 7; ++i) Begin(absl::StrCat("s", i));
  v1::ListSessionsRequest request;
  request.set_page_size(3);
  std::vector<std::string> ids;
  int pages = 0;
  do {
    const auto page = client().ListSessions(request);
    ASSERT_TRUE(page.ok()) << page.status();
    EXPECT_LE(page->sessions_size(), 3);
    for (const v1::Session& session : page->sessions()) {
      ids.push_back(session.session_id());
    }
    request.set_page_token(page->next_page_token());
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(pages, 3);
  EXPECT_THAT(ids,
              ::testing::ElementsAre("s0", "s1", "s2", "s3", "s4", "s5", "s6"));
}

TEST_F(Turns, ListEndsAPageEarlyWhenItsLabelsAreLong) {
  constexpr int kSessions = 250;  // of about 10 KB each
  for (int i = 0; i < kSessions; ++i) {
    v1::CreateSessionRequest create;
    create.set_session_id(absl::StrCat("s", 1000 + i));
    for (int label = 0; label < 32; ++label) {
      (*create
            .mutable_labels())[absl::StrCat(std::string(62, 'k'), 10 + label)] =
          std::string(256, 'v');
    }
    const auto created = client().CreateSession(create);
    ASSERT_TRUE(created.ok()) << created.status();
  }
  v1::ListSessionsRequest request;
  request.set_page_size(1000);
  std::vector<int> pages;
  int next = 1000;
  do {
    const auto page = client().ListSessions(request);
    ASSERT_TRUE(page.ok()) << page.status();
    EXPECT_LE(page->ByteSizeLong(), (1 << 20) + 1024);
    pages.push_back(page->sessions_size());
    for (const v1::Session& session : page->sessions()) {
      EXPECT_EQ(session.session_id(), absl::StrCat("s", next++));
    }
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(next, 1000 + kSessions);
  ASSERT_EQ(pages.size(), 3);
  EXPECT_GT(pages[0], 90);
  EXPECT_GT(pages[1], 90);
}

}  // namespace
}  // namespace engram
