#include "server/step_runner.h"

#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/status.h"
#include "tests/server/started_sequences.h"

namespace engram {
namespace {

class RecordedMetrics final : public ModelMetrics {
 public:
  void ObserveStep(const StepObservation& step) override {
    steps.push_back(step);
  }
  void ObserveRequest(const RequestSummary&) override {}
  void SetLoad(const EngineLoad&) override {}

  std::vector<StepObservation> steps;
};

// Steps of a scripted model, without an engine.
class StepRunnerTest : public StartedSequences {
 protected:
  // It is one of those that run.
  Sequence* Run(Request request, size_t room = 8) {
    std::unique_ptr<Sequence> sequence = Start(std::move(request), room);
    Sequence* const started = sequence.get();
    running_.Add(std::move(sequence));
    return started;
  }

  RunningSequences running_{{}};
  RecordedMetrics metrics_;
  StepRunner steps_{
      &model_,  absl::Milliseconds(5), &states_, &progress_, &ends_, &clock_,
      &metrics_};
};

TEST_F(StepRunnerTest, RunsNoStepForNobody) {
  EXPECT_FALSE(*steps_.Run(running_));
  EXPECT_EQ(model_.steps(), 0);
  EXPECT_TRUE(metrics_.steps.empty());
}

TEST_F(StepRunnerTest, FeedsPromptsAndStreamsInOneStepAndCountsBoth) {
  Sequence* const stream = Run(TestEngine::Generate({1}, 9));
  ASSERT_TRUE(*steps_.Run(running_));
  Sequence* const prompt = Run(TestEngine::Generate({1, 2, 3}, 9));
  model_.SetDuringStep([this] { clock_.Advance(absl::Seconds(2)); });
  ASSERT_TRUE(*steps_.Run(running_));
  EXPECT_EQ(model_.steps(), 2);
  EXPECT_EQ(stream->generated.size(), 2);
  EXPECT_EQ(prompt->generated.size(), 1);
  const StepObservation& step = metrics_.steps.at(1);
  EXPECT_EQ(step.rows, 2);
  EXPECT_EQ(step.tokens, 4);
  EXPECT_EQ(step.prompt_tokens, 3);
  EXPECT_EQ(step.generated_tokens, 2);
  EXPECT_EQ(step.duration, absl::Seconds(2));
}

TEST_F(StepRunnerTest, LeavesOutWhoseReaderHasNoRoom) {
  // Room for the event that it starts.
  Sequence* const paused = Run(TestEngine::Generate({1}, 9), /*room=*/1);
  Sequence* const large = Run(TestEngine::Generate(Tokens(40, 1), 9));
  Request urgent = TestEngine::Generate(Tokens(16, 2), 9);
  urgent.priority = 1;
  Sequence* const first = Run(urgent);
  ASSERT_TRUE(*steps_.Run(running_));
  EXPECT_EQ(paused->position, 0);
  EXPECT_EQ(paused->steps_waited, 0);
  EXPECT_GT(first->position, large->position);
  EXPECT_EQ(first->position + large->position, 16);
}

TEST_F(StepRunnerTest, TellsThatTheDeviceFailedAndAdvancesNobody) {
  Sequence* const sequence = Run(TestEngine::Generate({1}, 9));
  model_.FailStep(1);
  EXPECT_TRUE(absl::IsInternal(steps_.Run(running_).status()));
  EXPECT_EQ(sequence->position, 0);
  EXPECT_TRUE(metrics_.steps.empty());
}

// --- Ahead.

TEST_F(StepRunnerTest, BeginsTheNextStepBeforeItTellsWhatTheLastOneDrew) {
  Sequence* const sequence = Run(TestEngine::Generate({1}, 9));
  ASSERT_TRUE(*steps_.Run(running_, /*may_run_ahead=*/true));
  EXPECT_TRUE(steps_.is_ahead());
  EXPECT_EQ(model_.steps(), 2);
  EXPECT_EQ(sequence->generated.size(), 1);
  ASSERT_TRUE(*steps_.Run(running_, /*may_run_ahead=*/false));
  EXPECT_FALSE(steps_.is_ahead());
  EXPECT_EQ(model_.steps(), 2) << "it finishes the one that is ahead";
  EXPECT_EQ(sequence->generated.size(), 2);
}

TEST_F(StepRunnerTest, DrawsTheSameAheadAsStepByStep) {
  Request request = TestEngine::Generate({1}, 8);
  request.sampling.temperature = 1;
  request.sampling.frequency_penalty = 1;
  request.sampling.repetition_penalty = 2;
  Sequence* const ahead = Run(request, /*room=*/20);
  while (!ahead->over) ASSERT_TRUE(*steps_.Run(running_, true));
  const Tokens drawn = ahead->generated;
  EXPECT_EQ(model_.steps_ahead(), 7);
  running_.DropOver();
  Sequence* const alone = Run(request, /*room=*/20);
  while (!alone->over) ASSERT_TRUE(*steps_.Run(running_, false));
  EXPECT_EQ(alone->generated, drawn);
}

TEST_F(StepRunnerTest, NothingIsAheadWhenASequenceEnds) {
  Sequence* const stopped = Run(TestEngine::Generate({1}, 9));
  Sequence* const other = Run(TestEngine::Generate({2}, 9));
  script_.Say(2, 7);
  stopped->stop_ids = {7};
  stopped->request.stopping.stop_token_ids = {7};
  while (!stopped->over) {
    ASSERT_TRUE(*steps_.Run(running_, /*may_run_ahead=*/true));
  }
  EXPECT_FALSE(steps_.is_ahead());
  EXPECT_EQ(stopped->generated.size(), 2);
  EXPECT_EQ(stopped->position, 2) << "the stop itself is never fed";
  EXPECT_EQ(other->generated.size(), 3) << "its step went on";
  const StepObservation& last = metrics_.steps.back();
  EXPECT_EQ(last.rows, 1) << "nothing was fed of the one that had stopped";
  EXPECT_EQ(last.tokens, 1);
}

TEST_F(StepRunnerTest, TakesNoTokenForWhoHadStoppedBeforeTheStepAhead) {
  const auto tenant = std::make_shared<Tenant>("paced", 1);
  tenant->SetLimits({.tokens_per_second = 100});
  Request request = TestEngine::Generate({1}, 9);
  request.tenant = tenant;
  Sequence* const other = Run(request);
  request.stopping.stop_token_ids = {7};
  Sequence* const stopped = Run(request);
  script_.Say(2, 7);
  stopped->stop_ids = {7};
  while (!stopped->over) {
    ASSERT_TRUE(*steps_.Run(running_, /*may_run_ahead=*/true));
  }
  EXPECT_EQ(tenant->TakeTokens(1000, /*least=*/1, clock_.Now()),
            50 - stopped->position - other->position);
}

TEST_F(StepRunnerTest, RunsAheadOfNobodyWhoMayEndOtherwise) {
  Run(TestEngine::Generate({1}, 1));
  ASSERT_TRUE(*steps_.Run(running_, /*may_run_ahead=*/true));
  EXPECT_FALSE(steps_.is_ahead()) << "that was all it wanted";
  running_.DropOver();
  Run(TestEngine::Generate({1}, 9), /*room=*/2);
  ASSERT_TRUE(*steps_.Run(running_, /*may_run_ahead=*/true));
  EXPECT_FALSE(steps_.is_ahead()) << "there is room for one token only";
}

TEST_F(StepRunnerTest, KeepsTheStateBeforeAStepAheadThatAStopStringMayUndo) {
  Request request = TestEngine::Generate({1}, 9);
  request.stopping.stop = {"stop"};
  Sequence* const sequence = Run(request, /*room=*/20);
  Sequence* const other = Run(TestEngine::Generate({2}, 9), /*room=*/20);
  const int other_slot = other->slot;
  for (int step = 1; step <= 4; ++step) {
    SCOPED_TRACE(step);
    ASSERT_TRUE(*steps_.Run(running_, /*may_run_ahead=*/true));
    ASSERT_TRUE(steps_.is_ahead());
    EXPECT_EQ(model_.states().tokens(sequence->slot), step);
    EXPECT_EQ(model_.states().tokens(states_.SpareSlot(*sequence)), step + 1);
  }
  EXPECT_EQ(other->slot, other_slot);
  EXPECT_EQ(states_.SpareSlot(*other), -1) << "it stops at ids alone";
  EXPECT_EQ(model_.steps_ahead(), 4);
}

TEST_F(StepRunnerTest, WaitsForStopStringsWhereNoSlotIsLeft) {
  Request request = TestEngine::Generate({1}, 9);
  request.stopping.stop = {"stop"};
  Sequence* const sequence = Run(request, /*room=*/20);
  std::vector<Sequence*> others;
  for (int i = 1; i < model_.limits().slots; ++i) {
    others.push_back(Run(TestEngine::Generate({1}, 9), /*room=*/20));
  }
  ASSERT_TRUE(*steps_.Run(running_, /*may_run_ahead=*/true));
  EXPECT_FALSE(steps_.is_ahead());
  states_.Release(running_.Take(others.back()).get());
  ASSERT_TRUE(*steps_.Run(running_, /*may_run_ahead=*/true));
  EXPECT_TRUE(steps_.is_ahead());
  EXPECT_EQ(sequence->generated.size(), 2);
}

TEST_F(StepRunnerTest, MovesOneStateAStepForTheSlotsOfStopStrings) {
  Request request = TestEngine::Generate({1}, 9);
  request.stopping.stop = {"stop"};
  for (int i = 0; i < 2; ++i) Run(request, /*room=*/20);
  for (const char* session : {"a", "b"}) {
    CommitTurn(&sessions_, TestEngine::Turn(session, "r", {1}, 1),
               model_.states().Take());
  }
  ASSERT_EQ(model_.states().free_slots(), 0);
  const auto moved = [this] {
    return sessions_.Counts().models[0].evictions_slot_to_ram;
  };
  ASSERT_TRUE(*steps_.Run(running_, /*may_run_ahead=*/true));
  EXPECT_EQ(moved(), 1);
  EXPECT_FALSE(steps_.is_ahead());
  ASSERT_TRUE(*steps_.Run(running_, /*may_run_ahead=*/true));
  EXPECT_EQ(moved(), 2);
  EXPECT_TRUE(steps_.is_ahead());
}

TEST_F(StepRunnerTest, SettlesWhatIsAhead) {
  Sequence* const sequence = Run(TestEngine::Generate({1}, 9));
  ASSERT_TRUE(*steps_.Run(running_, /*may_run_ahead=*/true));
  ENGRAM_CHECK_OK(steps_.Settle());
  EXPECT_FALSE(steps_.is_ahead());
  EXPECT_EQ(sequence->generated.size(), 2);
  ENGRAM_CHECK_OK(steps_.Settle());
  EXPECT_EQ(model_.steps(), 2);
}

}  // namespace
}  // namespace engram
