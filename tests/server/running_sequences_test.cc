#include "server/running_sequences.h"

#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

class RunningSequencesTest : public ::testing::Test {
 protected:
  // One that has had its slot for so many steps and has so much to feed.
  Sequence* Add(int seconds, int priority, int64_t steps, int64_t tokens,
                const TenantHandle& tenant = nullptr) {
    Request request = TestEngine::Generate({1}, 1);
    request.priority = priority;
    request.tenant = tenant;
    auto sequence = std::make_unique<Sequence>(
        request, nullptr, std::make_shared<TokenStream>(1, [] {}));
    sequence->arrival = absl::UnixEpoch() + absl::Seconds(seconds);
    sequence->start_time = sequence->arrival;
    sequence->to_feed.assign(tokens, 1);
    Sequence* const added = sequence.get();
    running_.Add(std::move(sequence));
    added->steps_in_slot += steps;
    return added;
  }
  static WaitingRequest Waiting(int priority, int64_t tokens, int tenant = 0) {
    return {.priority = priority,
            .arrival = absl::UnixEpoch() + absl::Seconds(100),
            .prompt_tokens = tokens,
            .tenant = tenant};
  }

  RunningSequences running_{{.steps = 4, .long_prompt_tokens = 100}};
};

TEST_F(RunningSequencesTest, AreInOrderOfArrival) {
  const Sequence* const second = Add(2, 0, 0, 1);
  const Sequence* const first = Add(1, 0, 0, 1);
  const Sequence* const third = Add(3, 0, 0, 1);
  ASSERT_EQ(running_.size(), 3);
  EXPECT_EQ(running_.all()[0].get(), first);
  EXPECT_EQ(running_.all()[1].get(), second);
  EXPECT_EQ(running_.all()[2].get(), third);
  EXPECT_EQ(running_.Take(second).get(), second);
  EXPECT_EQ(running_.size(), 2);
}

TEST_F(RunningSequencesTest, DropThoseThatAreOver) {
  Add(1, 0, 0, 1)->over = true;
  const Sequence* const left = Add(2, 0, 0, 1);
  running_.DropOver();
  ASSERT_EQ(running_.size(), 1);
  EXPECT_EQ(running_.all()[0].get(), left);
}

TEST_F(RunningSequencesTest, TellWhoHasWaitedLongestForItsReader) {
  EXPECT_EQ(running_.LongestPaused(), nullptr);
  Sequence* const one = Add(1, 0, 0, 1);
  Sequence* const other = Add(2, 0, 0, 1);
  EXPECT_EQ(running_.LongestPaused(), nullptr);
  one->paused_since = absl::UnixEpoch() + absl::Seconds(9);
  EXPECT_EQ(running_.LongestPaused(), one);
  other->paused_since = absl::UnixEpoch() + absl::Seconds(8);
  EXPECT_EQ(running_.LongestPaused(), other);
}

TEST_F(RunningSequencesTest, MakeWayForWhatMattersMoreTheLastOfThemFirst) {
  Add(1, 0, 4, 1);
  const Sequence* const last = Add(2, 0, 4, 1);
  Add(3, 1, 4, 1);
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(1, 1)), last);
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(0, 1)), nullptr);
}

TEST_F(RunningSequencesTest, MakeNoWayBeforeTheyHaveDoneTheirSteps) {
  Sequence* const sequence = Add(1, 0, 3, 1);
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(1, 1)), nullptr);
  ++sequence->steps_in_slot;
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(1, 1)), sequence);
  // Nor in a slot that they have got anew.
  running_.Add(running_.Take(sequence));
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(1, 1)), nullptr);
}

TEST_F(RunningSequencesTest, MakeWayForAPromptThatIsMuchShorter) {
  Sequence* const sequence = Add(1, 0, 4, 100);
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(0, 12)), sequence);
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(0, 13)), nullptr);
  // Not for one that matters less, nor once its prompt is fed.
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(-1, 1)), nullptr);
  sequence->decoding = true;
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(0, 12)), nullptr);
}

TEST_F(RunningSequencesTest, KnowWhetherStreamsRun) {
  Sequence* const sequence = Add(1, 0, 0, 1);
  EXPECT_FALSE(running_.StreamsRun());
  sequence->decoding = true;
  EXPECT_TRUE(running_.StreamsRun());
  // Its reader has room for no more.
  EXPECT_FALSE(sequence->stream->Push(SampledToken()));
  EXPECT_FALSE(running_.StreamsRun());
}

TEST_F(RunningSequencesTest, MakeWayForATenantThatHasLessThanItsShare) {
  const auto many = std::make_shared<Tenant>("many", 1);
  const auto few = std::make_shared<Tenant>("few", 2);
  Add(1, 0, 4, 1, many);
  Sequence* const last = Add(2, 0, 4, 1, many);
  Sequence* const urgent = Add(3, 9, 4, 1, many);
  Add(4, -9, 4, 1, few);
  // Whatever they matter within their own.
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(-5, 1000, 2)), last);
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(9, 1, 3)), last);
  // Not before they have done their steps, nor for who has its share.
  last->steps_in_slot = 3;
  urgent->steps_in_slot = 3;
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(0, 1, 3)), running_.all()[0].get());
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(0, 1, 1)), nullptr);
  running_.Take(last);
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(0, 1, 2)), running_.all()[0].get());
  urgent->over = true;
  running_.DropOver();
  EXPECT_EQ(running_.shares().Share(1, 1), 1);
  // Of the tenant's own, one that matters less.
  EXPECT_EQ(running_.WhoMakesWayFor(Waiting(0, 1, 2)), running_.all()[1].get());
}

}  // namespace
}  // namespace engram
