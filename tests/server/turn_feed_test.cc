// One answer, from the engine or from a record.
#include "server/turn_feed.h"

#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include "gtest/gtest.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

class TurnFeedTest : public ::testing::Test {
 protected:
  TurnFeedTest() {
    model_.admission = std::make_unique<Admission>(
        AdmissionLimits{},
        AdmissionModel{
            .number = engine_.number, .vocabulary_size = 16, .capacity = {}},
        &engine_.sessions, &engine_.clock);
    model_.on_end = [this](const RequestSummary& request) {
      reported_.push_back(request);
    };
  }

  TestEngine engine_;
  ServedModel model_;
  std::vector<RequestSummary> reported_;
};

TEST_F(TurnFeedTest, ReportsARefusal) {
  EXPECT_FALSE(TurnFeed::Submit(&model_, TestEngine::Generate({}, 1)).ok());
  ASSERT_EQ(reported_.size(), 1);
  EXPECT_EQ(reported_[0].handling, RequestHandling::kRefused);
  EXPECT_EQ(reported_[0].status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(TurnFeedTest, FeedsWhatTheEngineSays) {
  auto feed = TurnFeed::Submit(&model_, TestEngine::Generate({1}, 1));
  ASSERT_TRUE(feed.ok());
  bool ready = false;
  (*feed)->SetReady([&] { ready = true; });
  Event event;
  absl::Status status;
  EXPECT_EQ((*feed)->Pop(&event, &status), TurnFeed::State::kEmpty);
  const std::unique_ptr<Sequence> sequence =
      model_.admission->inbox().TakeNext();
  ASSERT_TRUE(sequence->stream->Push(StartedEvent()));
  sequence->stream->TellReader();
  EXPECT_TRUE(ready);
  EXPECT_EQ((*feed)->Pop(&event, &status), TurnFeed::State::kEvent);
  (*feed)->Cancel(absl::CancelledError("left"));
  EXPECT_TRUE(sequence->stream->cancelled().has_value());
}

TEST_F(TurnFeedTest, FeedsARepeatFromItsRecord) {
  const Request request = TestEngine::Turn("a", "r", {1}, 3);
  const Reader first = engine_.Run(request);
  auto feed = TurnFeed::Submit(&model_, request);
  ASSERT_TRUE(feed.ok()) << feed.status();
  Tokens tokens;
  Event event;
  absl::Status status;
  while ((*feed)->Pop(&event, &status) == TurnFeed::State::kEvent) {
    if (auto* token = std::get_if<TokenEvent>(&event)) {
      tokens.push_back(token->id);
    }
  }
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(tokens, first.ids());
  ASSERT_EQ(reported_.size(), 1);
  EXPECT_EQ(reported_[0].handling, RequestHandling::kReplayed);
  EXPECT_EQ(reported_[0].finish_reason, "length");
  EXPECT_EQ(reported_[0].usage.generated_tokens, 3);
  EXPECT_EQ(reported_[0].timing.decode, first.completed()->timing.decode);
}

TEST_F(TurnFeedTest, RefusesARepeatWhoseReceivedTokensDiffer) {
  Request request = TestEngine::Turn("a", "r", {1}, 3);
  const Reader first = engine_.Run(request);
  request.received = {(first.ids()[0] + 1) % 16};
  EXPECT_EQ(TurnFeed::Submit(&model_, request).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(TurnFeedTest, PassesOverEventsOnceItIsAbandoned) {
  auto feed = TurnFeed::Submit(&model_, TestEngine::Generate({1}, 1));
  ASSERT_TRUE(feed.ok()) << feed.status();
  const std::unique_ptr<Sequence> sequence =
      model_.admission->inbox().TakeNext();
  (void)sequence->stream->Push(StartedEvent());
  (*feed)->Abandon(absl::CancelledError("left"));
  EXPECT_EQ(sequence->stream->cancelled(), absl::CancelledError("left"));
  Event event;
  absl::Status status;
  EXPECT_EQ((*feed)->Pop(&event, &status), TurnFeed::State::kEmpty);
  TurnFigures figures;
  figures.usage.generated_tokens = 7;
  (void)sequence->stream->End(absl::CancelledError("as it was told"), figures);
  EXPECT_EQ((*feed)->Pop(&event, &status), TurnFeed::State::kEnd);
  EXPECT_EQ(status, absl::CancelledError("as it was told"));
  EXPECT_EQ((*feed)->figures().usage.generated_tokens, 7);
}

TEST_F(TurnFeedTest, ARepeatThatIsAbandonedEnds) {
  const Request request = TestEngine::Turn("a", "r", {1}, 3);
  engine_.Run(request);
  auto feed = TurnFeed::Submit(&model_, request);
  ASSERT_TRUE(feed.ok()) << feed.status();
  (*feed)->Abandon(absl::CancelledError("left"));
  Event event;
  absl::Status status;
  EXPECT_EQ((*feed)->Pop(&event, &status), TurnFeed::State::kEnd);
  EXPECT_EQ((*feed)->figures().usage.generated_tokens, 0);
}

}  // namespace
}  // namespace engram
