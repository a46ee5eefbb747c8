// The turns of one stream, without gRPC: the stream of these tests carries out
// what a Conversation says, as server/converse_call.cc does.
#include "server/conversation.h"

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/delivery.h"
#include "server/served_model.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

// A model and its engine, which a test turns by hand or runs on a thread.
class ConversationTest : public ::testing::Test {
 protected:
  // On a clock that stands, unless `clock` is given.
  explicit ConversationTest(int delivery_threads = 0, Clock* clock = nullptr)
      : delivery_(delivery_threads) {
    if (clock == nullptr) clock = &parts_.clock;
    model_.name = "scripted";
    model_.admission = std::make_unique<Admission>(
        AdmissionLimits(),
        AdmissionModel{
            .number = parts_.number, .vocabulary_size = 16, .capacity = {}},
        &parts_.sessions, clock);
    model_.on_end = [this](const RequestSummary& request) {
      absl::MutexLock lock(&mutex_);
      reported_.push_back(request);
    };
    model_.devices.emplace_back();
    model_.devices.front().engine = std::make_unique<Engine>(
        EngineModel{.name = "scripted",
                    .model = &parts_.model,
                    .number = parts_.number},
        EngineOptions(), &model_.admission->inbox(), &parts_.sessions,
        &delivery_, clock, nullptr, model_.on_end);
  }

  static Request Turn(const std::string& session_id, Tokens prompt,
                      int64_t max_tokens) {
    return TestEngine::Turn(session_id, NextRequestId(), std::move(prompt),
                            max_tokens);
  }
  static std::string NextRequestId() {
    static int next = 0;
    return absl::StrCat("r", ++next);
  }

  Engine& engine() { return *model_.devices.front().engine; }
  void RunUntilIdle() {
    while (engine().RunOnce()) {
    }
  }

  TestEngine parts_;  // but for its admission and engine
  Delivery delivery_;
  RequestThreads threads_{RequestThreadsLimits()};
  absl::Mutex mutex_;
  std::vector<RequestSummary> reported_;
  ServedModel model_;
};

// One end of a stream.
class Stream {
 public:
  struct Cancel {};
  struct HalfClose {};
  using Message = std::variant<Request, Cancel, HalfClose, absl::Status>;

  Stream(SessionStore* sessions, RequestThreads* threads, ServedModel* model)
      : conversation(sessions, threads, /*tenant=*/nullptr), model_(model) {
    conversation.EndWrite();  // the initial metadata
    Read();
  }

  // --- The client.
  void Send(Message message) {
    {
      absl::MutexLock lock(&mutex_);
      inbox_.push_back(std::move(message));
    }
    Receive();
  }

  // --- What was done.
  bool is_reading() const {
    absl::MutexLock lock(&mutex_);
    return is_reading_;
  }
  int starts() const { return starts_; }
  const std::optional<absl::Status>& end() const { return end_; }
  template <typename T>
  std::vector<T> Events() const {
    std::vector<T> found;
    for (const Event& event : events_) {
      if (auto* one = std::get_if<T>(&event)) found.push_back(*one);
    }
    return found;
  }

  void Pump() {
    while (true) {
      Conversation::Next next = conversation.TakeNext();
      if (auto* turn = std::get_if<Conversation::StartTurn>(&next)) {
        ++starts_;
        StartTurn(std::move(turn->work));
        return;
      }
      if (auto* finish = std::get_if<Conversation::Finish>(&next)) {
        EXPECT_FALSE(end_.has_value()) << "finished twice";
        end_ = finish->status;
        absl::MutexLock lock(&mutex_);
        has_ended_ = true;
        return;
      }
      auto* write = std::get_if<Conversation::Write>(&next);
      if (write == nullptr) return;
      EXPECT_FALSE(end_.has_value()) << "written after the end";
      if (!fail_writes.ok()) {
        conversation.FailWrite(fail_writes);
        continue;
      }
      events_.push_back(std::move(write->event));
      if (holds_writes) return;
      conversation.EndWrite();
    }
  }

  // --- What a test holds up.
  bool holds_writes = false;  // until conversation.EndWrite
  bool holds_starts = false;  // until GoOn
  absl::Status fail_writes;
  void GoOn() { Submit(std::move(starting_)); }

  // What was done is of this thread alone afterwards.
  void AwaitEnd() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&has_ended_));
  }

  Conversation conversation;

 private:
  void Read() {
    {
      absl::MutexLock lock(&mutex_);
      is_reading_ = true;
    }
    Receive();
  }

  void Receive() {
    Message message;
    {
      absl::MutexLock lock(&mutex_);
      if (!is_reading_ || inbox_.empty()) return;
      is_reading_ = false;
      message = std::move(inbox_.front());
      inbox_.pop_front();
    }
    if (std::holds_alternative<HalfClose>(message)) {
      conversation.EndMessages();
      return Pump();
    }
    const auto work = conversation.BeginMessage();
    absl::StatusOr<Conversation::Message> kind = Conversation::Message::kCancel;
    if (auto* turn = std::get_if<Request>(&message)) {
      held_ = std::move(*turn);
      kind = Conversation::Message::kTurn;
    } else if (auto* bad = std::get_if<absl::Status>(&message)) {
      kind = *bad;
    }
    if (conversation.TakeMessage(kind)) Read();
    conversation.EndMessage();
    Pump();
  }

  void StartTurn(std::shared_ptr<RequestWork> work) {
    turn_ = std::exchange(held_, Request());
    Read();
    const absl::Status named =
        conversation.NameTurn(&turn_.session_id, &model_name_);
    if (!named.ok()) return Keep(named);
    if (holds_starts) {
      starting_ = std::move(work);
    } else {
      Submit(std::move(work));
    }
  }

  void Submit(std::shared_ptr<RequestWork> work) {
    const absl::Status wanted = work->MayGoOn();
    if (!wanted.ok()) return Keep(wanted);
    absl::StatusOr<std::shared_ptr<TurnFeed>> feed =
        TurnFeed::Submit(model_, turn_);
    if (feed.ok()) (*feed)->SetReady([this] { Pump(); });
    Keep(std::move(feed));
  }

  void Keep(absl::StatusOr<std::shared_ptr<TurnFeed>> feed) {
    StartedEvent started;
    started.session_id = turn_.session_id;
    started.request_id = turn_.request_id;
    conversation.KeepTurn(std::move(feed), started);
    Pump();
  }

  ServedModel* const model_;
  std::string model_name_;
  mutable absl::Mutex mutex_;
  std::deque<Message> inbox_ ABSL_GUARDED_BY(mutex_);
  bool has_ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_reading_ ABSL_GUARDED_BY(mutex_) = false;
  Request held_;
  Request turn_;
  std::shared_ptr<RequestWork> starting_;
  int starts_ = 0;
  std::vector<Event> events_;
  std::optional<absl::Status> end_;
};

class ConversationByHand : public ConversationTest {
 protected:
  Stream stream_{&parts_.sessions, &threads_, &model_};
};

TEST_F(ConversationByHand, RunsTurnsOneAfterTheOtherOnOneSession) {
  stream_.Send(Turn("s", {1, 2, 3}, 2));
  stream_.Send(Turn("", {4}, 3));
  stream_.Send(Stream::HalfClose());
  RunUntilIdle();
  RunUntilIdle();
  EXPECT_EQ(stream_.end(), absl::OkStatus());
  EXPECT_EQ(stream_.Events<TokenEvent>().size(), 5);
  const auto started = stream_.Events<StartedEvent>();
  ASSERT_EQ(started.size(), 2);
  EXPECT_EQ(started[1].session_id, "s");
  EXPECT_EQ(started[1].version, 1);
  EXPECT_EQ(stream_.Events<CompletedEvent>().back().version, 2);
}

TEST_F(ConversationByHand, MakesUpASessionIfNoneIsNamed) {
  stream_.Send(Turn("", {1}, 1));
  RunUntilIdle();
  stream_.Send(Turn("", {2}, 1));
  RunUntilIdle();
  const auto started = stream_.Events<StartedEvent>();
  ASSERT_EQ(started.size(), 2);
  EXPECT_FALSE(started[0].session_id.empty());
  EXPECT_EQ(started[1].session_id, started[0].session_id);
  EXPECT_EQ(started[1].version, 1);
}

TEST_F(ConversationByHand, HoldsOneTurnAtATime) {
  stream_.Send(Turn("s", {1}, 1));
  EXPECT_TRUE(stream_.is_reading());
  stream_.Send(Turn("s", {2}, 1));
  EXPECT_FALSE(stream_.is_reading());
  stream_.Send(Turn("s", {3}, 1));
  EXPECT_EQ(stream_.starts(), 1);
  RunUntilIdle();
  EXPECT_EQ(stream_.starts(), 3);
  EXPECT_TRUE(stream_.is_reading());
  EXPECT_EQ(stream_.Events<CompletedEvent>().size(), 3);
}

TEST_F(ConversationByHand, WritesOneEventAtATime) {
  stream_.holds_writes = true;
  stream_.Send(Turn("s", {1}, 3));
  RunUntilIdle();
  EXPECT_EQ(stream_.Events<StartedEvent>().size(), 1);
  EXPECT_TRUE(stream_.Events<TokenEvent>().empty());
  stream_.conversation.EndWrite();
  stream_.Pump();
  EXPECT_EQ(stream_.Events<TokenEvent>().size(), 1);
}

TEST_F(ConversationByHand, ACancelledTurnThatWaitsTellsTheSessionAsItIs) {
  stream_.Send(Turn("s", {1, 2}, 1));
  RunUntilIdle();
  stream_.Send(Turn("s", {3}, 4));
  stream_.Send(Stream::Cancel());
  RunUntilIdle();
  const auto started = stream_.Events<StartedEvent>();
  ASSERT_EQ(started.size(), 2);
  EXPECT_EQ(started[1].session_id, "s");
  EXPECT_EQ(started[1].version, 1);
  EXPECT_EQ(started[1].position, 2);
  const auto completed = stream_.Events<CompletedEvent>();
  ASSERT_EQ(completed.size(), 2);
  EXPECT_EQ(completed[1].finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(completed[1].version, 1);
  EXPECT_EQ(stream_.Events<TokenEvent>().size(), 1);
}

TEST_F(ConversationByHand, ACancelledTurnThatHasBegunIsCompletedOnce) {
  stream_.Send(Turn("s", {1, 2}, 100));
  engine().RunOnce();
  stream_.Send(Stream::Cancel());
  RunUntilIdle();
  EXPECT_EQ(stream_.Events<StartedEvent>().size(), 1);
  ASSERT_EQ(stream_.Events<CompletedEvent>().size(), 1);
  EXPECT_EQ(stream_.Events<CompletedEvent>()[0].finish_reason,
            FinishReason::kCancelled);
  EXPECT_EQ(stream_.Events<CompletedEvent>()[0].version, 0);
  // It tells what log and metrics are told.
  ASSERT_EQ(reported_.size(), 1);
  const CompletedEvent completed = stream_.Events<CompletedEvent>()[0];
  EXPECT_EQ(completed.usage.prompt_tokens, 2);
  EXPECT_EQ(completed.usage.generated_tokens, 1);
  EXPECT_EQ(reported_[0].usage.generated_tokens, 1);
  // The stream goes on.
  stream_.Send(Turn("s", {3}, 1));
  RunUntilIdle();
  ASSERT_EQ(stream_.Events<CompletedEvent>().size(), 2);
  EXPECT_EQ(stream_.Events<CompletedEvent>()[1].version, 1);
}

TEST_F(ConversationByHand, AFragmentThatWasKeptIsCompletedOnce) {
  Request turn = Turn("s", {1, 2}, 100);
  turn.keep_partial = true;
  stream_.Send(turn);
  engine().RunOnce();
  stream_.Send(Stream::Cancel());
  RunUntilIdle();
  ASSERT_EQ(stream_.Events<CompletedEvent>().size(), 1);
  EXPECT_EQ(stream_.Events<CompletedEvent>()[0].version, 1);
  EXPECT_FALSE(stream_.end().has_value());
}

TEST_F(ConversationByHand, ACancelledTurnThatIsBeingStartedIsAnswered) {
  stream_.holds_starts = true;
  stream_.Send(Turn("s", {1, 2}, 1));
  stream_.Send(Stream::Cancel());
  EXPECT_TRUE(stream_.Events<StartedEvent>().empty());
  stream_.GoOn();
  EXPECT_EQ(stream_.Events<StartedEvent>().size(), 1);
  ASSERT_EQ(stream_.Events<CompletedEvent>().size(), 1);
  EXPECT_EQ(stream_.Events<CompletedEvent>()[0].finish_reason,
            FinishReason::kCancelled);
  EXPECT_FALSE(stream_.end().has_value());
}

TEST_F(ConversationByHand, ACancelWithoutATurnDoesNothing) {
  stream_.Send(Stream::Cancel());
  EXPECT_TRUE(stream_.is_reading());
  stream_.Send(Turn("s", {1}, 2));
  RunUntilIdle();
  stream_.Send(Stream::Cancel());
  ASSERT_EQ(stream_.Events<CompletedEvent>().size(), 1);
  EXPECT_EQ(stream_.Events<CompletedEvent>()[0].finish_reason,
            FinishReason::kLength);
  EXPECT_FALSE(stream_.end().has_value());
}

TEST_F(ConversationByHand, ATurnOnAnotherSessionEndsTheStream) {
  stream_.Send(Turn("s", {1}, 1));
  RunUntilIdle();
  stream_.Send(Turn("t", {1}, 1));
  ASSERT_TRUE(stream_.end().has_value());
  EXPECT_EQ(stream_.end()->code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(stream_.end()->message()), HasSubstr("\"t\""));
}

TEST_F(ConversationByHand, ATurnThatIsRefusedEndsTheStreamWithItsStatus) {
  stream_.Send(Turn("s", {99}, 1));
  ASSERT_TRUE(stream_.end().has_value());
  EXPECT_EQ(stream_.end()->code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ConversationByHand, AMalformedMessageEndsTheStreamAfterTheTurnThatRuns) {
  stream_.Send(Turn("s", {1}, 3));
  stream_.Send(absl::InvalidArgumentError("neither"));
  EXPECT_FALSE(stream_.end().has_value());
  RunUntilIdle();
  EXPECT_EQ(stream_.Events<CompletedEvent>().size(), 1);
  EXPECT_EQ(stream_.end(), absl::InvalidArgumentError("neither"));
}

TEST_F(ConversationByHand, AStreamWithoutTurnsEndsWell) {
  stream_.Send(Stream::HalfClose());
  EXPECT_EQ(stream_.end(), absl::OkStatus());
}

TEST_F(ConversationByHand, IsNotFinishedWhileAMessageIsInHand) {
  stream_.conversation.BeginMessage();
  stream_.Send(Stream::HalfClose());
  EXPECT_FALSE(stream_.end().has_value());
  stream_.conversation.EndMessage();
  stream_.Pump();
  EXPECT_EQ(stream_.end(), absl::OkStatus());
}

TEST_F(ConversationByHand, AStoppedServerEndsAStreamThatWaits) {
  stream_.conversation.Stop();
  stream_.Pump();
  ASSERT_TRUE(stream_.end().has_value());
  EXPECT_EQ(stream_.end()->code(), absl::StatusCode::kUnavailable);
}

TEST_F(ConversationByHand, AStoppedServerLetsATurnEnd) {
  stream_.Send(Turn("s", {1}, 3));
  stream_.conversation.Stop();
  stream_.Pump();
  EXPECT_FALSE(stream_.end().has_value());
  RunUntilIdle();
  EXPECT_EQ(stream_.Events<CompletedEvent>().size(), 1);
  ASSERT_TRUE(stream_.end().has_value());
  EXPECT_EQ(stream_.end()->code(), absl::StatusCode::kUnavailable);
}

TEST_F(ConversationByHand, AClientThatGoesAwayTakesItsTurnsWithIt) {
  stream_.holds_writes = true;
  stream_.Send(Turn("s", {1}, 100));
  stream_.Send(Turn("s", {2}, 1));
  engine().RunOnce();
  stream_.conversation.Abandon(absl::CancelledError("gone"));
  stream_.conversation.EndWrite();
  stream_.Pump();
  EXPECT_FALSE(stream_.end().has_value());  // the turn is not over
  RunUntilIdle();
  EXPECT_TRUE(stream_.end().has_value());
  EXPECT_TRUE(stream_.Events<TokenEvent>().empty());
  EXPECT_EQ(stream_.starts(), 1);
  EXPECT_EQ(engine().running(), 0);
}

TEST_F(ConversationByHand, ATurnWhoseClientWentWhileItWasStartedIsCancelled) {
  stream_.holds_starts = true;
  stream_.Send(Turn("s", {1}, 100));
  stream_.conversation.Abandon(absl::CancelledError("gone"));
  stream_.Pump();
  EXPECT_FALSE(stream_.end().has_value());
  stream_.GoOn();
  EXPECT_EQ(stream_.end(), absl::CancelledError("gone"));
  EXPECT_EQ(model_.admission->inbox().waiting(), 0);
}

TEST_F(ConversationByHand, AMessageIsNotDecodedForAClientThatHasGone) {
  const auto before = stream_.conversation.BeginMessage();
  stream_.conversation.Abandon(absl::CancelledError("gone"));
  const auto after = stream_.conversation.BeginMessage();
  EXPECT_EQ(before->MayGoOn(), absl::CancelledError("gone"));
  EXPECT_EQ(after->MayGoOn(), absl::CancelledError("gone"));
}

TEST_F(ConversationByHand, AnEventThatCannotBeWrittenEndsTheStream) {
  stream_.fail_writes = absl::InternalError("too long");
  stream_.Send(Turn("s", {1}, 100));
  RunUntilIdle();
  EXPECT_EQ(stream_.end(), absl::InternalError("too long"));
  EXPECT_EQ(engine().running(), 0);
}

// Its engine and delivery run on threads of their own.
class ConversationThreads : public ConversationTest {
 protected:
  ConversationThreads() : ConversationTest(2, RealClock()) {}
};

TEST_F(ConversationThreads, EveryTurnIsCompletedWhateverIsCancelled) {
  constexpr int kStreams = 4;
  constexpr int kTurns = 25;
  std::thread thread([this] { EXPECT_TRUE(engine().Run().ok()); });
  std::deque<Stream> streams;
  for (int i = 0; i < kStreams; ++i) {
    streams.emplace_back(&parts_.sessions, &threads_, &model_);
  }
  for (int turn = 0; turn < kTurns; ++turn) {
    for (Stream& stream : streams) {
      stream.Send(Turn("", {1, 2}, turn % 5));
      if (turn % 3 == 0) stream.Send(Stream::Cancel());
    }
  }
  for (Stream& stream : streams) stream.Send(Stream::HalfClose());
  for (Stream& stream : streams) {
    stream.AwaitEnd();
    EXPECT_EQ(stream.end(), absl::OkStatus());
    EXPECT_EQ(stream.starts(), kTurns);
    EXPECT_EQ(stream.Events<StartedEvent>().size(), kTurns);
    EXPECT_EQ(stream.Events<CompletedEvent>().size(), kTurns);
  }
  model_.admission->inbox().Close("the test is over");
  engine().Drain(RealClock()->Now() + absl::Seconds(60));
  thread.join();
  delivery_.Finish();
}

}  // namespace
}  // namespace engram
