#include "server/sequence_ends.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"

namespace engram {
namespace {

// Ends of sequences that a scripted model would have run.
class SequenceEndsTest : public ::testing::Test {
 protected:
  // One that has been fed its prompt and has said one token.
  std::unique_ptr<Sequence> Run(Request request) {
    auto sequence = std::make_unique<Sequence>(
        std::move(request), nullptr, std::make_shared<TokenStream>(8, [] {}));
    sequence->arrival = clock_.Now();
    if (!sequence->request.session_id.empty()) {
      auto begun =
          sessions_.BeginTurn(number_, sequence->request, [](absl::Status) {});
      EXPECT_TRUE(begun.ok()) << begun.status();
      sequence->session = std::get<SessionStore::Turn>(*begun).session;
    }
    clock_.Advance(absl::Seconds(1));
    EXPECT_TRUE(*states_.TryLoad(sequence.get()));
    sequence->start_time = clock_.Now();
    clock_.Advance(absl::Seconds(2));
    sequence->prefill_end = clock_.Now();
    clock_.Advance(absl::Seconds(3));
    sequence->decoding = true;
    sequence->position = sequence->request.prompt.size();
    sequence->generated = {5};
    outbox_.Tell(sequence->stream, MakeStarted(*sequence));
    return sequence;
  }
  static Reader Read(const Sequence& sequence) {
    Reader reader(sequence.stream);
    reader.Read();
    EXPECT_TRUE(reader.ended());
    return reader;
  }
  void ExpectNothingHeld(const Sequence& sequence) {
    EXPECT_TRUE(sequence.over);
    EXPECT_EQ(sequence.slot, -1);
  }

  FakeClock clock_;
  Script script_{16};
  ScriptedModel model_{&script_, TestEngineOptions().model};
  SessionStore sessions_{{}, &clock_};
  const int number_ = sessions_.AddModel("m", CapacityOf(model_.info()));
  StateKeeper states_{&model_.states(), CapacityOf(model_.info()), number_,
                      &sessions_};
  Delivery delivery_{0};
  EngineOutbox outbox_{&delivery_};
  std::vector<RequestSummary> reported_;
  SequenceEnds ends_{"m",
                     &states_,
                     &sessions_,
                     &outbox_,
                     &clock_,
                     [this](const RequestSummary& summary) {
                       reported_.push_back(summary);
                       // Whatever it does takes time.
                       clock_.Advance(absl::Seconds(10));
                     }};
};

TEST_F(SequenceEndsTest, TellReaderAndReportTheSameFigures) {
  const auto sequence = Run(TestEngine::Turn("a", "r", {1, 2}, 1));
  ends_.Complete(sequence.get(), FinishReason::kLength);
  ExpectNothingHeld(*sequence);
  const Reader reader = Read(*sequence);
  EXPECT_TRUE(reader.status().ok());
  ASSERT_TRUE(reader.completed().has_value());
  ASSERT_EQ(reported_.size(), 1);
  EXPECT_EQ(reported_[0].finish_reason, "length");
  EXPECT_EQ(reported_[0].usage.prompt_tokens, 2);
  EXPECT_EQ(reported_[0].usage.generated_tokens, 1);
  for (const Timing& timing :
       {reported_[0].timing, reader.completed()->timing}) {
    EXPECT_EQ(timing.queue, absl::Seconds(1));
    EXPECT_EQ(timing.prefill, absl::Seconds(2));
    EXPECT_EQ(timing.decode, absl::Seconds(3));
  }
  EXPECT_EQ(reported_[0].total, absl::Seconds(6));
}

// Before the reader can know, who may ask for more at once.
TEST_F(SequenceEndsTest, GiveBackThePlaceThatTheTenantHas) {
  const auto tenant = std::make_shared<Tenant>("acme", 1);
  for (const bool completes : {true, false}) {
    const auto sequence = Run(TestEngine::Generate({1, 2}, 1));
    sequence->place = *TenantPlace::Take(tenant, 2, clock_.Now());
    EXPECT_EQ(tenant->streams(), 1);
    if (completes) {
      ends_.Complete(sequence.get(), FinishReason::kLength);
    } else {
      ends_.End(sequence.get(), absl::CancelledError("gone"));
    }
    EXPECT_EQ(tenant->streams(), 0);
  }
}

TEST_F(SequenceEndsTest, CommitWhatCompletes) {
  const Request request = TestEngine::Turn("a", "r", {1, 2}, 1);
  const auto sequence = Run(request);
  ends_.Complete(sequence.get(), FinishReason::kStop);
  EXPECT_EQ(sessions_.Get(Named("a"))->version, 1);
  EXPECT_EQ(sessions_.Get(Named("a"))->position, 2);
  const auto repeat = sessions_.CheckTurn(number_, request);
  ASSERT_TRUE(repeat.ok()) << repeat.status();
  EXPECT_EQ((*repeat)->tokens, Tokens{5});
  EXPECT_EQ((*repeat)->completed.finish_reason, FinishReason::kStop);
  EXPECT_EQ((*repeat)->completed.version, 1);
  EXPECT_EQ((*repeat)->completed.timing.decode, absl::Seconds(3));
}

TEST_F(SequenceEndsTest, KeepAFragmentOnlyIfAskedAndAfterAnEndFromOutside) {
  for (const bool keep_partial : {true, false}) {
    for (const absl::Status& end :
         {absl::CancelledError("left"), absl::InternalError("broken")}) {
      const std::string id = keep_partial ? "kept" : "dropped";
      const bool kept = keep_partial && absl::IsCancelled(end);
      Request request = TestEngine::Turn(id, "r", {1, 2}, 3);
      request.keep_partial = keep_partial;
      const auto sequence = Run(request);
      ends_.End(sequence.get(), end);
      ExpectNothingHeld(*sequence);
      const Reader reader = Read(*sequence);
      EXPECT_EQ(reader.status(), end);
      EXPECT_EQ(reader.completed().has_value(), kept);
      EXPECT_EQ(reported_.back().finish_reason, kept ? "cancelled" : "");
      EXPECT_EQ(sessions_.Get(Named(id)).ok(), kept);
      sessions_.Delete(Named(id)).IgnoreError();
    }
  }
}

TEST_F(SequenceEndsTest, EndATurnWhoseSessionIsGone) {
  const auto sequence = Run(TestEngine::Turn("a", "r", {1}, 1));
  ASSERT_TRUE(sessions_.Delete(Named("a")).ok());
  ends_.Complete(sequence.get(), FinishReason::kLength);
  ExpectNothingHeld(*sequence);
  EXPECT_EQ(Read(*sequence).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(reported_.size(), 1);
}

}  // namespace
}  // namespace engram
