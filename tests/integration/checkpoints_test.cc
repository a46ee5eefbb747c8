// Checkpoints of the whole server: whatever starts from one says what a call
// with all its tokens says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/server_fixture.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kHybrid[] = "hybrid";  // with attention layers
constexpr char kMamba2[] = "mamba2";

// A session of each model that has read and said some tokens, and a checkpoint
// of it.
class Checkpoints : public ServerFixture {
 protected:
  Checkpoints()
      : ServerFixture(GoldenOptions(
            {{kHybrid, "h3/hybrid_rotary"}, {kMamba2, "mamba2/odd"}})) {}

  static v1::GenerateRequest Turn(const std::vector<int32_t>& prompt) {
    v1::GenerateRequest turn = TokenTurn("", prompt, 5);
    turn.set_logprobs(1);
    turn.mutable_sampling()->set_temperature(0.9f);
    turn.mutable_sampling()->set_seed(7);
    turn.mutable_stopping()->set_ignore_eos(true);
    return turn;
  }
  // All that the checkpoint has read.
  std::vector<int32_t> Make(const std::string& model,
                            const std::string& checkpoint) {
    const std::vector<int32_t> prompt = RandomIds(40, 30);
    v1::GenerateRequest turn = OnSession(Turn(prompt), "reader");
    turn.set_model(model);
    const Answer said = client().Generate(turn);
    EXPECT_TRUE(said.status.ok()) << said.status;
    std::vector<int32_t> read = prompt;
    for (int32_t id : said.ids()) read.push_back(id);
    const auto made = client().Checkpoint("reader", checkpoint);
    EXPECT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(made->model(), model);
    EXPECT_EQ(made->version(), 1);
    EXPECT_EQ(made->position(), 44);
    EXPECT_TRUE(made->pending_token());
    // What becomes of the session makes no difference.
    EXPECT_TRUE(client().Generate(OnSession(Turn({9}), "reader")).status.ok());
    EXPECT_TRUE(client().DeleteSession("reader").ok());
    return read;
  }
  // As if all had been read in one call.
  Answer Alone(const std::string& model, std::vector<int32_t> read,
               const std::vector<int32_t>& prompt) {
    read.insert(read.end(), prompt.begin(), prompt.end());
    v1::GenerateRequest turn = Turn(read);
    turn.set_model(model);
    return client().Generate(turn);
  }
  static void ExpectEqual(const Answer& said, const Answer& alone) {
    ASSERT_TRUE(said.status.ok()) << said.status;
    ASSERT_TRUE(alone.status.ok()) << alone.status;
    EXPECT_EQ(said.ids(), alone.ids());
    EXPECT_EQ(said.logprobs(), alone.logprobs());
    EXPECT_EQ(said.completed->position(), alone.completed->position());
    EXPECT_EQ(said.started->position(), 44);
    EXPECT_EQ(said.started->cached_tokens(), 44);
  }
};

TEST_F(Checkpoints, AreGoneOnFromAsIfAllHadBeenReadInOneCall) {
  for (const std::string model : {kHybrid, kMamba2}) {
    SCOPED_TRACE(model);
    const std::vector<int32_t> read = Make(model, model);
    const std::vector<int32_t> prompt = {3, 1, 2};
    const Answer alone = Alone(model, read, prompt);

    v1::GenerateRequest turn = Turn(prompt);
    turn.set_from_checkpoint(model);
    ExpectEqual(client().Generate(turn), alone);
    const Answer on_session =
        client().Generate(OnSession(turn, absl::StrCat(model, "-1")));
    ExpectEqual(on_session, alone);
    EXPECT_EQ(on_session.completed->version(), 2);

    v1::CreateSessionRequest create;
    create.set_session_id(absl::StrCat(model, "-2"));
    create.set_from_checkpoint(model);
    const auto created = client().CreateSession(create);
    ASSERT_TRUE(created.ok()) << created.status();
    EXPECT_EQ(created->model(), model);
    EXPECT_EQ(created->version(), 1);
    ExpectEqual(client().Generate(OnSession(Turn(prompt), create.session_id())),
                alone);

    v1::ForkSessionRequest fork;
    fork.set_new_session_id(absl::StrCat(model, "-3"));
    fork.set_from_checkpoint(model);
    ASSERT_TRUE(client().Fork(fork).ok());
    ExpectEqual(
        client().Generate(OnSession(Turn(prompt), fork.new_session_id())),
        alone);

    const std::unique_ptr<ConverseStream> stream = client().Converse();
    turn.set_session_id(absl::StrCat(model, "-4"));
    ASSERT_TRUE(stream->WriteTurn(turn));
    ExpectEqual(stream->ReadTurn(), alone);
    stream->WritesDone();
    EXPECT_TRUE(stream->Finish().ok());
  }
}

TEST_F(Checkpoints, AreWhatATextIsScoredAfter) {
  for (const std::string model : {kHybrid, kMamba2}) {
    SCOPED_TRACE(model);
    std::vector<int32_t> read = Make(model, model);
    v1::ScoreRequest score = TokenScore("", {4, 5, 6});
    score.set_from_checkpoint(model);
    const auto scored = client().Score(score);
    ASSERT_TRUE(scored.ok()) << scored.status();
    read.insert(read.end(), {4, 5, 6});
    const auto whole = client().Score(TokenScore(model, read));
    ASSERT_TRUE(whole.ok()) << whole.status();
    ASSERT_EQ(scored->tokens_size(), 3);
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(scored->tokens(i).logprob(), whole->tokens(45 + i).logprob());
    }
  }
}

TEST_F(Checkpoints, AreToldOfAndRefusedByName) {
  Make(kMamba2, "c");
  EXPECT_EQ(client().Checkpoint("nobody", "d").status().code(),
            absl::StatusCode::kNotFound);
  v1::GenerateRequest turn = Turn({1});
  turn.set_from_checkpoint("none");
  EXPECT_EQ(client().Generate(turn).status,
            absl::NotFoundError("there is no checkpoint \"none\""));
  turn.set_from_checkpoint("c");
  turn.set_model(kHybrid);
  EXPECT_EQ(client().Generate(turn).status,
            absl::InvalidArgumentError("checkpoint \"c\" belongs to model "
                                       "\"mamba2\", not \"hybrid\""));
  turn.set_model("");
  turn = OnSession(turn, "s", "r");
  turn.set_expected_version(0);
  const Answer first = client().Generate(turn);
  ASSERT_TRUE(first.status.ok()) << first.status;
  // The same again is told again; another turn cannot start there.
  EXPECT_EQ(client().Generate(turn).ids(), first.ids());
  turn.set_request_id("r2");
  turn.clear_expected_version();
  EXPECT_EQ(client().Generate(turn).status,
            absl::FailedPreconditionError(
                "session \"s\" exists, at version 2; only a new one can start "
                "from_checkpoint"));
  EXPECT_EQ(client().Checkpoint("s", "c").status(),
            absl::AlreadyExistsError("checkpoint \"c\" exists"));
  v1::ForkSessionRequest fork;
  fork.set_session_id("s");
  fork.set_from_checkpoint("c");
  EXPECT_THAT(std::string(client().Fork(fork).status().message()),
              HasSubstr("a fork starts from one of them"));
  // A fork without a name stays in its group.
  fork.clear_session_id();
  EXPECT_THAT(client().Fork(fork)->session_id(), HasSubstr("c:"));

  ASSERT_TRUE(client().DeleteCheckpoint("c").ok());
  EXPECT_EQ(client().DeleteCheckpoint("c"),
            absl::NotFoundError("there is no checkpoint \"c\""));
  EXPECT_TRUE(client().GetSession("s").ok());
}

TEST_F(Checkpoints, AreListedPageByPage) {
  Make(kMamba2, "c0");
  v1::ForkSessionRequest fork;
  fork.set_from_checkpoint("c0");
  fork.set_new_session_id("s");
  ASSERT_TRUE(client().Fork(fork).ok());
  for (const char* id : {"c1", "c2", "c3"}) {
    ASSERT_TRUE(client().Checkpoint("s", id).ok());
  }
  v1::ListCheckpointsRequest request;
  request.set_page_size(3);
  auto page = client().ListCheckpoints(request);
  ASSERT_TRUE(page.ok()) << page.status();
  ASSERT_EQ(page->checkpoints_size(), 3);
  EXPECT_EQ(page->next_page_token(), "c2");
  request.set_page_token("c2");
  page = client().ListCheckpoints(request);
  ASSERT_EQ(page->checkpoints_size(), 1);
  EXPECT_EQ(page->checkpoints(0).checkpoint_id(), "c3");
  EXPECT_EQ(page->checkpoints(0).model(), kMamba2);
  EXPECT_EQ(page->next_page_token(), "");
  request.Clear();
  request.set_model(kHybrid);
  EXPECT_EQ(client().ListCheckpoints(request)->checkpoints_size(), 0);
  request.set_page_size(1001);
  EXPECT_EQ(client().ListCheckpoints(request).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(Checkpoints, CostOneStateHoweverManySessionsStartFromThem) {
  Make(kMamba2, "c");
  const int64_t state_bytes = client().GetModel(kMamba2)->state_bytes();
  const auto in_ram = [&] {
    return server_.Metrics().Sum("session_state_bytes", {"tier=\"ram\""});
  };
  EXPECT_EQ(in_ram(), state_bytes);
  for (int i = 0; i < 50; ++i) {
    v1::CreateSessionRequest create;
    create.set_from_checkpoint("c");
    ASSERT_TRUE(client().CreateSession(create).ok());
  }
  EXPECT_EQ(in_ram(), state_bytes);
  const MetricsPage page = server_.Metrics();
  EXPECT_EQ(page.Sum("sessions", {"tier=\"ram\""}), 50);
  EXPECT_EQ(page.Sum("checkpoints"), 1);
  EXPECT_EQ(page.Sum("checkpoint_state_bytes"), state_bytes);
}

}  // namespace
}  // namespace engram
