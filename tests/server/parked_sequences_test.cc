// Which of those that have yielded their slots goes on first.
#include "server/parked_sequences.h"

#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

constexpr int kRoom = 4;  // of a stream, in tokens

class ParkedSequencesTest : public ::testing::Test {
 protected:
  // Of `priority`, arrived at `second`, with so many events that its reader has
  // not read. Returns the sequence, which stays where it is.
  Sequence* Park(const std::string& name, int priority, int second,
                 int unread = 0) {
    Request request = TestEngine::Generate({1}, 1);
    request.request_id = name;
    request.priority = priority;
    auto sequence =
        std::make_unique<Sequence>(std::move(request), nullptr,
                                   std::make_shared<TokenStream>(kRoom, [] {}));
    sequence->arrival = absl::FromUnixSeconds(second);
    for (int i = 0; i < unread; ++i) {
      (void)sequence->stream->Push(StartedEvent());
    }
    Sequence* const parked = sequence.get();
    parked_.Add(std::move(sequence));
    return parked;
  }
  std::string TakeNext() { return parked_.TakeNext()->request.request_id; }

  ParkedSequences parked_;
};

TEST_F(ParkedSequencesTest, OneOfHigherPriorityThenTheEarliest) {
  Park("late", /*priority=*/0, /*second=*/2);
  Park("early", /*priority=*/0, /*second=*/1);
  Park("urgent", /*priority=*/1, /*second=*/3);
  ASSERT_TRUE(parked_.Next().has_value());
  EXPECT_EQ(parked_.Next()->priority, 1);
  EXPECT_EQ(TakeNext(), "urgent");
  EXPECT_EQ(parked_.Next()->arrival, absl::FromUnixSeconds(1));
  EXPECT_EQ(TakeNext(), "early");
  EXPECT_EQ(TakeNext(), "late");
  EXPECT_FALSE(parked_.Next().has_value());
  EXPECT_EQ(parked_.size(), 0);
}

TEST_F(ParkedSequencesTest, PassesOverThoseWhoseReadersHaveNotMadeRoom) {
  Sequence* const slow = Park("slow", /*priority=*/1, /*second=*/1, kRoom);
  EXPECT_FALSE(parked_.Next().has_value());
  Park("quick", /*priority=*/0, /*second=*/2, kRoom / 2);
  EXPECT_EQ(TakeNext(), "quick");
  Event event;
  absl::Status status;
  // Room for one token is not worth a slot.
  slow->stream->Pop(&event, &status);
  EXPECT_FALSE(parked_.Next().has_value());
  slow->stream->Pop(&event, &status);
  EXPECT_EQ(TakeNext(), "slow");
}

TEST_F(ParkedSequencesTest, DropsThoseThatHaveEnded) {
  Park("over", /*priority=*/1, /*second=*/1)->over = true;
  Park("other", /*priority=*/0, /*second=*/2);
  EXPECT_EQ(parked_.Next()->priority, 0);
  EXPECT_EQ(parked_.size(), 2);
  parked_.DropOver();
  ASSERT_EQ(parked_.size(), 1);
  EXPECT_EQ(parked_.all()[0]->request.request_id, "other");
}

}  // namespace
}  // namespace engram
