#include "server/sequence_progress.h"

#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/started_sequences.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Outcome Drawn(int32_t token) {
  Outcome outcome;
  outcome.token = token;
  return outcome;
}

Outcome Scored(float log_probability) {
  Outcome outcome;
  outcome.log_probability = log_probability;
  return outcome;
}

// Sequences that are told what a model would have made of them.
class SequenceProgressTest : public StartedSequences {
 protected:
  void Advance(Sequence* sequence, int tokens,
               const std::vector<Outcome>& outcomes, bool finite = true) {
    clock_.Advance(absl::Seconds(1));
    const std::optional<SequenceEnd> end = progress_.Advance(
        sequence, tokens, {.finite = finite, .outcomes = outcomes},
        clock_.Now(), &observation_);
    EXPECT_FALSE(sequence->over);
    if (end.has_value()) ends_.End(sequence, *end);
  }
  static Reader Read(const Sequence& sequence) {
    Reader reader(sequence.stream);
    reader.Read();
    return reader;
  }

  StepObservation observation_;
};

TEST_F(SequenceProgressTest, SaysNothingBeforeThePromptIsFed) {
  const auto sequence = Start(TestEngine::Generate({1, 2, 3}, 2));
  Advance(sequence.get(), 2, {});
  EXPECT_EQ(sequence->remaining(), 1);
  EXPECT_FALSE(sequence->decoding);
  EXPECT_THAT(Read(*sequence).tokens(), IsEmpty());
  EXPECT_EQ(observation_.generated_tokens, 0);
}

TEST_F(SequenceProgressTest, FeedsWhatWasDrawnUntilItIsTheLast) {
  const auto sequence = Start(TestEngine::Generate({1, 2, 3}, 2));
  Advance(sequence.get(), 3, {Drawn(7)});
  EXPECT_THAT(sequence->to_feed, ElementsAre(7));
  EXPECT_EQ(sequence->remaining(), 1);
  Advance(sequence.get(), 1, {Drawn(9)});
  EXPECT_TRUE(sequence->over);
  const Reader reader = Read(*sequence);
  EXPECT_THAT(reader.ids(), ElementsAre(7, 9));
  EXPECT_TRUE(reader.status().ok());
  EXPECT_EQ(reader.completed()->position, 4);
  EXPECT_EQ(observation_.generated_tokens, 2);
  EXPECT_THAT(observation_.time_to_first_token_seconds, ElementsAre(1));
  EXPECT_THAT(observation_.inter_token_latency_seconds, ElementsAre(1));
}

TEST_F(SequenceProgressTest, EndsAtAStopToken) {
  Request request = TestEngine::Generate({1}, 9);
  request.stopping.stop_token_ids = {5};
  const auto sequence = Start(request);
  Outcome stop = Drawn(5);
  stop.stops = true;
  Advance(sequence.get(), 1, {stop});
  EXPECT_TRUE(sequence->over);
  EXPECT_EQ(Read(*sequence).completed()->finish_reason, FinishReason::kStop);
}

TEST_F(SequenceProgressTest, TellsTheScoreOfEveryTokenButAFirst) {
  const auto sequence = Start(TestEngine::Score("", {1, 2, 3}));
  Advance(sequence.get(), 2, {Scored(-1.5f), Scored(-2.5f)});
  EXPECT_FALSE(sequence->over);
  Advance(sequence.get(), 1, {});
  EXPECT_TRUE(sequence->over);
  EXPECT_THAT(Read(*sequence).logprobs(),
              ElementsAre(std::nullopt, -1.5f, -2.5f));
}

TEST_F(SequenceProgressTest, EndsWhatIsNotANumber) {
  const auto state = Start(TestEngine::Generate({1, 2}, 2));
  Advance(state.get(), 2, {}, /*finite=*/false);
  const auto logits = Start(TestEngine::Generate({1, 2}, 2));
  Advance(logits.get(), 2, {Drawn(-1)});
  for (const Sequence* sequence : {state.get(), logits.get()}) {
    EXPECT_TRUE(sequence->over);
    EXPECT_EQ(sequence->slot, -1);
    EXPECT_TRUE(absl::IsInternal(Read(*sequence).status()));
  }
}

}  // namespace
}  // namespace engram
