#include "server/inspections.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/status.h"
#include "server/engine.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

// What came of a question.
struct Asked {
  std::optional<absl::StatusOr<SessionLook>> look;
  absl::Status wanted = absl::OkStatus();

  const absl::Status& status() const {
    ENGRAM_CHECK(look.has_value());
    return look->status();
  }
};
using AskedHandle = std::shared_ptr<Asked>;

class InspectionsTest : public ::testing::Test {
 protected:
  explicit InspectionsTest(TestEngineOptions options = {}) : engine_(options) {}

  // What comes after each of `queries`.
  AskedHandle Ask(const std::string& session_id, Tokens queries,
                  Tokens tokens = {}, TenantHandle tenant = nullptr) {
    InspectionQuestion question;
    question.queries = std::move(queries);
    question.tokens = std::move(tokens);
    question.alternatives = 1;
    return Ask(session_id, std::move(question), std::move(tenant));
  }
  AskedHandle Ask(const std::string& session_id, InspectionQuestion asked,
                  TenantHandle tenant = nullptr) {
    auto result = std::make_shared<Asked>();
    SessionQuestion question;
    question.tenant = std::move(tenant);
    if (!session_id.empty()) {
      question.session = *engine_.sessions.Find(Named(session_id));
    }
    question.asked = std::move(asked);
    question.may_go_on = [result] { return result->wanted; };
    question.done = [result](absl::StatusOr<SessionLook> look) {
      EXPECT_FALSE(result->look.has_value()) << "answered twice";
      result->look = std::move(look);
    };
    engine_.engine.Inspect(std::move(question));
    return result;
  }

  void RunUntilAnswered(const AskedHandle& asked) {
    for (int i = 0; i < 1000 && !asked->look.has_value(); ++i) {
      engine_.RunOnce();
    }
    ASSERT_TRUE(asked->look.has_value());
  }

  // The likeliest id after these.
  int32_t After(const Tokens& tokens) const {
    Script::Sequence sequence;
    for (const int32_t id : tokens) sequence.Feed(id);
    const std::vector<float> logits = engine_.script.LogitsAfter(sequence);
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) -
                                logits.begin());
  }
  static Tokens With(Tokens tokens, const Tokens& more) {
    tokens.insert(tokens.end(), more.begin(), more.end());
    return tokens;
  }

  TestEngine engine_;
};

TEST_F(InspectionsTest, AnswersFromTheCommittedStateAndItsPendingToken) {
  const Reader turn = engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 4));
  const Tokens history = With({1, 2, 3}, turn.ids());
  const AskedHandle asked = Ask("a", {5, 6});
  RunUntilAnswered(asked);
  ASSERT_TRUE(asked->status().ok()) << asked->status();
  const SessionLook& look = **asked->look;
  EXPECT_EQ(look.turns.version, 1);
  EXPECT_EQ(look.turns.position, 6);
  ASSERT_EQ(look.answer.queries.size(), 2u);
  EXPECT_EQ(look.answer.queries[0].top[0].id, After(With(history, {5})));
  EXPECT_EQ(look.answer.queries[1].top[0].id, After(With(history, {6})));
}

TEST_F(InspectionsTest, ReadsAPromptFirst) {
  engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 0));
  const AskedHandle asked = Ask("a", {5}, /*tokens=*/{7, 8});
  const AskedHandle alone = Ask("", {5}, /*tokens=*/{7, 8});
  RunUntilAnswered(alone);
  EXPECT_EQ((*asked->look)->answer.queries[0].top[0].id,
            After({1, 2, 3, 7, 8, 5}));
  EXPECT_EQ((*alone->look)->answer.queries[0].top[0].id, After({7, 8, 5}));
  EXPECT_EQ((*alone->look)->turns.position, 0);
}

TEST_F(InspectionsTest, DescribesByTheTokenThatComesNext) {
  const Reader turn = engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 2));
  InspectionQuestion question;
  question.describe = true;
  const AskedHandle asked = Ask("a", question);
  RunUntilAnswered(asked);
  const InspectionAnswer& answer = (*asked->look)->answer;
  EXPECT_EQ(answer.fading_token, turn.ids().back());
  EXPECT_EQ(answer.states[0].window_tokens, 4);
}

TEST_F(InspectionsTest, AttributesTheAnswerToAPromptAfterThePendingToken) {
  const Reader turn = engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 2));
  InspectionQuestion question;
  question.tokens = {7, 8};
  question.attribution.emplace();
  const AskedHandle asked = Ask("a", question);
  RunUntilAnswered(asked);
  ASSERT_TRUE(asked->status().ok()) << asked->status();
  const Attribution& found = *(*asked->look)->answer.attribution;
  EXPECT_EQ(found.tokens, With({turn.ids().back()}, {7, 8}));
  EXPECT_EQ(found.target, After(With(With({1, 2, 3}, turn.ids()), {7, 8})));
}

TEST_F(InspectionsTest, AblatesWithThePendingTokenFirst) {
  const Reader turn = engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 2));
  InspectionQuestion question;
  question.ablation.emplace();
  const AskedHandle alone = Ask("a", question);
  question.tokens = {7};
  const AskedHandle asked = Ask("a", question);
  RunUntilAnswered(asked);
  ASSERT_TRUE(alone->status().ok()) << alone->status();
  ASSERT_TRUE(asked->status().ok()) << asked->status();
  EXPECT_EQ((*alone->look)->answer.ablation->tokens,
            Tokens({turn.ids().back()}));
  const Ablation& found = *(*asked->look)->answer.ablation;
  EXPECT_EQ(found.tokens, Tokens({turn.ids().back(), 7}));
  EXPECT_EQ(found.untouched[0].id,
            After(With(With({1, 2, 3}, turn.ids()), {7})));
}

TEST_F(InspectionsTest, AblatesNothingWhereNothingIsToBeFed) {
  engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 0));
  InspectionQuestion question;
  question.ablation.emplace();
  const AskedHandle asked = Ask("a", question);
  RunUntilAnswered(asked);
  EXPECT_EQ(asked->status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(asked->status().message()),
              HasSubstr("there is nothing to feed"));
}

TEST_F(InspectionsTest, ChangesNoSessionAndTakesNoSlot) {
  const Reader first = engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 4));
  RunUntilAnswered(Ask("a", {5}, {6, 7}));
  const Request turn = TestEngine::Turn("a", "r2", {4}, 5);
  const Tokens history = With({1, 2, 3}, first.ids());
  EXPECT_EQ(engine_.Run(turn).ids(), engine_.Expect(history, turn).tokens);
  engine_.ExpectNoSlotLost();
}

// Between two steps there is one part at most, whoever asks and how much.
TEST_F(InspectionsTest, StreamsGoOnBetweenItsParts) {
  engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 4));
  const Request turn = TestEngine::Generate({1, 2}, 40);
  Reader reader = engine_.Submit(turn);
  engine_.RunOnce();
  std::vector<AskedHandle> asked;
  for (int i = 0; i < 3; ++i) asked.push_back(Ask("a", {5}));
  const int64_t before = engine_.model.steps();
  int64_t turns = 0;
  while (!asked.back()->look.has_value()) {
    engine_.RunOnce();
    ASSERT_EQ(engine_.model.steps(), before + ++turns) << "a step was left out";
  }
  EXPECT_GE(turns, 3 * ScriptedModel::kInspectionParts);
  engine_.RunUntilIdle();
  reader.Read();
  EXPECT_EQ(reader.ids(), engine_.Expect({}, turn).tokens);
}

TEST_F(InspectionsTest, SeesTheLastCommitWhileATurnRuns) {
  const Reader first = engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 4));
  Reader reader = engine_.Submit(TestEngine::Turn("a", "r2", {9}, 100));
  engine_.RunOnce();
  const AskedHandle asked = Ask("a", {5});
  RunUntilAnswered(asked);
  EXPECT_EQ((*asked->look)->turns.version, 1);
  EXPECT_EQ((*asked->look)->answer.queries[0].top[0].id,
            After(With(With({1, 2, 3}, first.ids()), {5})));
}

TEST_F(InspectionsTest, ASessionThatIsDeletedMeanwhileIsNotFound) {
  engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 4));
  const AskedHandle asked = Ask("a", {5});
  ENGRAM_CHECK_OK(engine_.sessions.Delete(Named("a")));
  RunUntilAnswered(asked);
  EXPECT_EQ(asked->status().code(), absl::StatusCode::kNotFound)
      << asked->status();
}

TEST_F(InspectionsTest, EndsWhenNobodyWaitsForIt) {
  engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 4));
  const AskedHandle gone = Ask("a", {5});
  const AskedHandle next = Ask("a", {6});
  engine_.RunOnce();
  engine_.RunOnce();
  EXPECT_FALSE(gone->look.has_value());
  gone->wanted = absl::CancelledError("the client left");
  RunUntilAnswered(next);
  EXPECT_EQ(gone->status(), absl::CancelledError("the client left"));
  EXPECT_TRUE(next->status().ok()) << next->status();
}

class FewInspections : public InspectionsTest {
 protected:
  FewInspections() : InspectionsTest(Options()) {
    engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 4));
  }
  static TestEngineOptions Options() {
    TestEngineOptions options;
    options.engine.max_inspections = 4;
    return options;
  }

  const TenantHandle one_ = std::make_shared<Tenant>("one", 1);
  const TenantHandle other_ = std::make_shared<Tenant>("other", 2);
};

TEST_F(FewInspections, WhatIsTooMuchIsRefusedWithTheLimit) {
  std::vector<AskedHandle> asked;
  for (const TenantHandle& tenant : {one_, other_}) {
    for (int i = 0; i < 2; ++i) asked.push_back(Ask("a", {5}, {}, tenant));
  }
  const AskedHandle refused = Ask("a", {5}, {}, nullptr);
  RunUntilAnswered(asked.back());
  EXPECT_EQ(refused->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused->status().message()),
              HasSubstr("4 inspections wait, limit 4 (--max-inspections)"));
  for (const AskedHandle& one : asked) {
    EXPECT_TRUE(one->status().ok()) << one->status();
  }
}

TEST_F(FewInspections, ATenantHasHalfOfThePlacesAndTenantsTakeTurns) {
  std::vector<AskedHandle> asked;
  for (int i = 0; i < 3; ++i) asked.push_back(Ask("a", {5}, {}, one_));
  const AskedHandle other = Ask("a", {5}, {}, other_);
  RunUntilAnswered(other);
  EXPECT_TRUE(asked[0]->look.has_value());
  EXPECT_FALSE(asked[1]->look.has_value());  // it waits for its tenant's turn
  EXPECT_THAT(std::string(asked[2]->status().message()),
              HasSubstr("2 inspections of yours wait, limit 2"));
  RunUntilAnswered(asked[1]);
  EXPECT_TRUE(asked[1]->status().ok());
}

TEST_F(InspectionsTest, TellsWhatIsLongerThanTheModelCanRead) {
  class ShortModel final : public Model {
   public:
    explicit ShortModel(ScriptedModel* model) : model_(*model) {
      info_ = model->info();
      info_.max_positions = 6;
    }
    const ModelInfo& info() const override { return info_; }
    const ModelLimits& limits() const override { return model_.limits(); }
    StatePool& states() override { return model_.states(); }
    absl::Status Begin(const Batch& batch) override {
      return model_.Begin(batch);
    }
    absl::StatusOr<StepResult> Finish() override { return model_.Finish(); }
    std::vector<float> LogitsForTest() const override { return {}; }
    absl::StatusOr<std::unique_ptr<Inspection>> Inspect(
        InspectionQuestion question) override {
      EXPECT_LE(question.position + question.tokens.size() +
                    (question.queries.empty() ? 0 : 1),
                6u);
      return model_.Inspect(std::move(question));
    }

   private:
    ScriptedModel& model_;
    ModelInfo info_;
  } model(&engine_.model);
  StateSnapshots::Snapshot six;
  six.turns.position = 0;
  Inspections inspections(
      &model, 4,
      [&](SessionHandle, StateSnapshots::Done found) { found(six); });
  const auto run = [&](InspectionQuestion question) {
    std::optional<absl::StatusOr<SessionLook>> look;
    inspections.Add({nullptr, nullptr, std::move(question),
                     [] { return absl::OkStatus(); },
                     [&](absl::StatusOr<SessionLook> done) { look = done; }});
    while (!inspections.empty()) (void)inspections.Advance();
    return *look;
  };
  InspectionQuestion question;
  question.alternatives = 1;
  question.queries = {1};
  question.tokens = {1, 2, 3, 4, 5};
  EXPECT_TRUE(run(question).ok());
  question.tokens.push_back(6);
  const absl::Status refused = run(question).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("6 more and a query are 7, limit of the model 6"));
  question.queries.clear();
  question.attribution.emplace();
  EXPECT_TRUE(run(question).ok());
  question.tokens.push_back(7);
  EXPECT_THAT(std::string(run(question).status().message()),
              HasSubstr("7 more are 7, limit of the model 6"));
  question.attribution.reset();
  question.tokens = {1, 2, 3, 4, 5};
  question.ablation.emplace();
  question.ablation->max_tokens = 2;  // of which one is fed
  EXPECT_TRUE(run(question).ok());
  question.ablation->max_tokens = 3;
  EXPECT_THAT(std::string(run(question).status().message()),
              HasSubstr("5 more and 2 of an answer that are fed are 7, limit"));
}

TEST_F(InspectionsTest, ADeviceThatFailsEndsItAndAllElse) {
  engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 4));
  Reader stream = engine_.Submit(TestEngine::Generate({1, 2}, 100));
  engine_.RunOnce();
  engine_.model.FailInspections();
  const AskedHandle asked = Ask("a", {5});
  const AskedHandle behind = Ask("a", {5});
  EXPECT_EQ(engine_.engine.Run().code(), absl::StatusCode::kInternal);
  stream.Read();
  EXPECT_EQ(stream.status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(asked->status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(behind->status().code(), absl::StatusCode::kInternal);
}

TEST_F(InspectionsTest, ADrainEndsWhatIsLeft) {
  engine_.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 4));
  const AskedHandle asked = Ask("a", {5});
  const AskedHandle behind = Ask("a", {6});
  engine_.admission.Close("closed");
  engine_.engine.Drain(engine_.clock.Now());
  EXPECT_TRUE(engine_.engine.Run().ok());
  for (const AskedHandle& one : {asked, behind}) {
    EXPECT_EQ(one->status(), absl::UnavailableError(
                                 "the server is stopping; try another one"));
  }
}

// With a step begun ahead of the one before, looks wait for both.
TEST(InspectionsAhead, RunWhileNoStepIsBegun) {
  TestEngineOptions options;
  options.runs_ahead = true;
  TestEngine engine(options);
  engine.Run(TestEngine::Turn("a", "r1", {1, 2, 3}, 0));
  const Request turn = TestEngine::Generate({1, 2}, 60);
  Reader reader = engine.Submit(turn);
  for (int i = 0; i < 5; ++i) engine.RunOnce();
  EXPECT_GT(engine.model.steps_ahead(), 0);
  std::optional<absl::Status> status;
  SessionQuestion question;
  question.session = *engine.sessions.Find(Named("a"));
  question.asked.queries = {5};
  question.asked.alternatives = 1;
  question.may_go_on = [] { return absl::OkStatus(); };
  question.done = [&](absl::StatusOr<SessionLook> look) {
    status = look.status();
  };
  engine.engine.Inspect(question);
  for (int i = 0; i < 40 && !status.has_value(); ++i) engine.RunOnce();
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(status->ok()) << *status;
  engine.RunUntilIdle();
  reader.Read();
  EXPECT_EQ(reader.ids(), engine.Expect({}, turn).tokens);
}

}  // namespace
}  // namespace engram
