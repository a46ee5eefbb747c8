#include "server/admission.h"

#include <malloc.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_engine.h"
#include "tests/support/sanitizers.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const Tokenizer* ByteTokenizer() {
  static const Tokenizer* const tokenizer = MakeByteTokenizer().release();
  return tokenizer;
}

class AdmissionTest : public ::testing::Test {
 protected:
  AdmissionTest() : sessions_({}, &clock_) {
    number_ = sessions_.AddModel("m", {.state_bytes = 32});
    other_number_ = sessions_.AddModel("other", {.state_bytes = 32});
    limits_.max_queue = 3;
    limits_.max_prompt_tokens = 8;
    limits_.max_generated_tokens = 10;
    limits_.max_score_tokens = 6;
  }

  Admission& admission() {
    if (admission_ == nullptr) {
      admission_ = std::make_unique<Admission>(
          limits_,
          AdmissionModel{.number = number_,
                         .vocabulary_size = kByteTokenizerIds,
                         .capacity = {},
                         .tokenizer = ByteTokenizer()},
          &sessions_, &clock_);
    }
    return *admission_;
  }

  // As the wire makes it: with the tokens that end a text.
  static Request Resolved(Request request) {
    if (!request.stopping.ignore_eos) {
      request.stopping.end_of_text_ids = {kEndOfText};
    }
    return request;
  }
  absl::Status Submit(Request request) {
    return admission().Submit(Resolved(std::move(request))).status();
  }

  void ExpectRefused(Request request, absl::StatusCode code,
                     const ::testing::Matcher<std::string>& message) {
    const absl::Status status = Submit(std::move(request));
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), message);
    EXPECT_EQ(admission().inbox().waiting(), 0);
    // No trace of it on its session.
    EXPECT_TRUE(sessions_.List(nullptr, -1, "", 10).empty());
  }

  // Its answer, which is then kept.
  void Commit(Request request) {
    request.identity = IdentityOf(request);
    CommitTurn(&sessions_, request, /*slot=*/0);
  }
  void ExpectReplayed(const Request& request) {
    const auto admitted = admission().Submit(request);
    ASSERT_TRUE(admitted.ok()) << admitted.status();
    EXPECT_TRUE(
        std::holds_alternative<std::shared_ptr<const TurnRecord>>(*admitted));
  }

  FakeClock clock_;
  SessionStore sessions_;
  AdmissionLimits limits_;
  int number_ = 0;
  int other_number_ = 0;
  std::unique_ptr<Admission> admission_;
};

using Code = absl::StatusCode;

Request Good() { return TestEngine::Turn("a", "r", Bytes("prompt"), 5); }

// --- Devices.

// The time stands still. Who is the `look`-th to ask for it after ComeBetween
// is told only when `between` has returned.
class ClockBetween final : public Clock {
 public:
  void ComeBetween(int look, std::function<void()> between) {
    between_ = std::move(between);
    looks_left_ = look;
  }
  absl::Time Now() override {
    if (--looks_left_ == 0) between_();
    return absl::UnixEpoch();
  }

 private:
  std::function<void()> between_;
  std::atomic<int> looks_left_ = 0;
};

TEST_F(AdmissionTest, RequestsThatComeAtOnceGoToDifferentDevices) {
  ClockBetween clock;
  admission_ = std::make_unique<Admission>(
      limits_,
      AdmissionModel{.number = number_,
                     .vocabulary_size = kByteTokenizerIds,
                     .capacity = {},
                     .tokenizer = ByteTokenizer(),
                     .devices = 2},
      &sessions_, &clock);
  std::thread other;
  absl::Notification is_admitted;
  // After its deadline was looked at, a request has chosen its device, and has
  // no place there yet. The other one may have to wait for it.
  clock.ComeBetween(2, [&] {
    other = std::thread([&] {
      EXPECT_TRUE(Submit(TestEngine::Generate({1}, 1)).ok());
      is_admitted.Notify();
    });
    is_admitted.WaitForNotificationWithTimeout(absl::Milliseconds(50));
  });
  EXPECT_TRUE(Submit(TestEngine::Generate({2}, 1)).ok());
  other.join();
  EXPECT_EQ(admission().inbox(0).waiting(), 1);
  EXPECT_EQ(admission().inbox(1).waiting(), 1);
  admission_ = nullptr;
}

// --- Limits.

TEST_F(AdmissionTest, AcceptsWhatIsJustWithinItsLimits) {
  Request request = TestEngine::Generate(Tokens(8, 1), 10);
  request.received = Tokens(10, 2);
  EXPECT_TRUE(Submit(request).ok());
  EXPECT_TRUE(Submit(TestEngine::Score("", Tokens(6, 1))).ok());
}

TEST_F(AdmissionTest, RefusesAPromptThatIsTooLong) {
  Request request = Good();
  request.prompt = Tokens(9, 1);
  ExpectRefused(request, Code::kInvalidArgument,
                AllOf(HasSubstr("9 tokens"), HasSubstr("limit 8"),
                      HasSubstr("--max-prompt-tokens")));
}

TEST_F(AdmissionTest, RefusesATextToScoreThatIsTooLong) {
  ExpectRefused(TestEngine::Score("", Tokens(7, 1)), Code::kInvalidArgument,
                AllOf(HasSubstr("7 tokens"), HasSubstr("limit 6"),
                      HasSubstr("--max-score-tokens")));
}

TEST_F(AdmissionTest, RefusesTooManyTokensToGenerate) {
  Request request = Good();
  request.stopping.max_tokens = 11;
  ExpectRefused(request, Code::kInvalidArgument,
                AllOf(HasSubstr("max_tokens is 11"), HasSubstr("limit 10"),
                      HasSubstr("--max-generated-tokens")));
}

TEST_F(AdmissionTest, RefusesANegativeMaxTokens) {
  Request request = Good();
  request.stopping.max_tokens = -1;
  ExpectRefused(request, Code::kInvalidArgument, HasSubstr("max_tokens is -1"));
}

// --- Memory.

TEST_F(AdmissionTest, TakesNoMoreThanItsMemoryHolds) {
  const Request request = Resolved(TestEngine::Generate(Tokens(8, 1), 1));
  limits_.request_bytes = 2 * SequenceBytes(request) + 1;
  EXPECT_TRUE(Submit(request).ok());
  EXPECT_TRUE(Submit(request).ok());
  const absl::Status full = Submit(request);
  EXPECT_EQ(full.code(), Code::kUnavailable);
  EXPECT_THAT(std::string(full.message()),
              AllOf(HasSubstr(absl::StrCat("limit ", limits_.request_bytes)),
                    HasSubstr("--request-memory")));
  EXPECT_TRUE(RetryAfter(full).has_value());
  // What runs still counts, what has ended does not.
  std::unique_ptr<Sequence> running = admission().inbox().TakeNext();
  EXPECT_EQ(Submit(request).code(), Code::kUnavailable);
  running.reset();
  EXPECT_TRUE(Submit(request).ok());
}

// Sizes after which a vector that only doubles has much to spare.
TEST_F(AdmissionTest, CountsWhatARequestTakesOfTheHeap) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer has a heap of its own";
  Request stops = Good();
  for (char first = 'a'; first < 'h'; ++first) {
    stops.stopping.stop.push_back(std::string(300, first));
  }
  Request received = TestEngine::Generate(Tokens(10000, 1), 10);
  received.received = {1};
  for (const Request& request : {stops, received}) {
    const size_t heap = mallinfo2().uordblks;
    auto sequence =
        std::make_unique<Sequence>(request, ByteTokenizer(), nullptr);
    ASSERT_TRUE(ReadReceived(sequence.get()).ok());
    Prepare(sequence.get(), kByteTokenizerIds);
    const size_t grown = mallinfo2().uordblks - heap;
    EXPECT_LE(grown, SequenceBytes(request) * 1.1);
  }
}

TEST_F(AdmissionTest, RefusesForGoodWhatItsMemoryCanNeverHold) {
  limits_.request_bytes = 100;
  ExpectRefused(Good(), Code::kInvalidArgument,
                HasSubstr("limit 100 (--request-memory)"));
}

TEST_F(AdmissionTest, ReplaysWhenItsMemoryIsFull) {
  limits_.request_bytes = 0;
  const Request request = Good();
  Commit(request);
  ExpectReplayed(request);
}

TEST_F(AdmissionTest, RefusesPromptTokensOutOfRange) {
  for (int32_t id : {-1, static_cast<int32_t>(kByteTokenizerIds)}) {
    Request request = Good();
    request.prompt = {1, id};
    ExpectRefused(request, Code::kInvalidArgument,
                  AllOf(HasSubstr("prompt token[1] is " + std::to_string(id)),
                        HasSubstr("limit 0 to 257")));
  }
}

TEST_F(AdmissionTest, RefusesStopTokensOutOfRange) {
  Request request = Good();
  request.stopping.stop_token_ids = {258};
  ExpectRefused(request, Code::kInvalidArgument,
                AllOf(HasSubstr("stop_token_ids[0] is 258"),
                      HasSubstr("limit 0 to 257")));
}

TEST_F(AdmissionTest, RefusesSamplingOutOfRange) {
  Request request = Good();
  request.sampling.temperature = 101;
  ExpectRefused(request, Code::kInvalidArgument,
                AllOf(HasSubstr("temperature"), HasSubstr("101")));
}

TEST_F(AdmissionTest, RefusesAnEmptyPromptWithoutSession) {
  Request request = Good();
  request.session_id.clear();
  request.prompt.clear();
  ExpectRefused(request, Code::kInvalidArgument, HasSubstr("prompt is empty"));
}

TEST_F(AdmissionTest, RefusesAnEmptyPromptOnANewSession) {
  Request request = Good();
  request.prompt.clear();
  ExpectRefused(request, Code::kInvalidArgument, HasSubstr("prompt is empty"));
}

TEST_F(AdmissionTest, RefusesAnEmptyTextToScore) {
  ExpectRefused(TestEngine::Score("", {}), Code::kInvalidArgument,
                HasSubstr("no text to score"));
}

TEST_F(AdmissionTest, RefusesADeadlineThatHasPassed) {
  Request request = Good();
  request.deadline = clock_.Now();
  ExpectRefused(request, Code::kDeadlineExceeded, HasSubstr("deadline"));
}

// --- Received tokens.

TEST_F(AdmissionTest, RefusesMoreReceivedTokensThanMaxTokens) {
  Request request = Good();
  request.received = Tokens(6, 1);
  ExpectRefused(request, Code::kInvalidArgument,
                AllOf(HasSubstr("received_token_ids has 6"),
                      HasSubstr("max_tokens is 5")));
}

TEST_F(AdmissionTest, RefusesReceivedTokensOutOfRange) {
  Request request = Good();
  request.received = {3, 258};
  ExpectRefused(request, Code::kInvalidArgument,
                HasSubstr("received_token_ids[1] is 258"));
}

TEST_F(AdmissionTest, RefusesReceivedTokensAfterAStopToken) {
  Request request = Good();
  request.stopping.stop_token_ids = {7};
  request.received = {3, 7, 4};
  ExpectRefused(request, Code::kInvalidArgument,
                AllOf(HasSubstr("received_token_ids[1] (7) ends the turn"),
                      HasSubstr("1 tokens follow")));
}

TEST_F(AdmissionTest, RefusesReceivedTokensAfterTheEndOfSequence) {
  Request request = Good();
  request.received = {kEndOfText, 4};
  ExpectRefused(request, Code::kInvalidArgument, HasSubstr("ends the turn"));
  request.stopping.ignore_eos = true;
  EXPECT_TRUE(Submit(request).ok());
}

TEST_F(AdmissionTest, RefusesReceivedTokensAfterAStopString) {
  Request request = Good();
  request.stopping.stop = {"END"};
  request.received = Bytes("ENDx");
  ExpectRefused(request, Code::kInvalidArgument,
                HasSubstr("received_token_ids[2]"));
}

TEST_F(AdmissionTest, AcceptsAStopAsTheLastReceivedToken) {
  Request request = Good();
  request.received = {3, kEndOfText};
  EXPECT_TRUE(Submit(request).ok());
  request = TestEngine::Generate({1}, 5);
  request.stopping.stop = {"END"};
  request.received = Bytes("END");
  EXPECT_TRUE(Submit(request).ok());
}

// --- Quotas.

TEST_F(AdmissionTest, RefusesMoreStreamsThanATenantMayHave) {
  const auto tenant = std::make_shared<Tenant>("acme", 1);
  tenant->SetLimits({.streams = 1});
  Request request = Good();
  request.tenant = tenant;
  EXPECT_TRUE(Submit(request).ok());
  Request other = TestEngine::Score("", {1});
  other.tenant = tenant;
  const absl::Status refused = Submit(other);
  EXPECT_EQ(refused.code(), Code::kResourceExhausted) << refused;
  EXPECT_TRUE(RetryAfter(refused).has_value());
  // What is wrong with the request itself is told first.
  other.session_id = "nobody";
  EXPECT_EQ(Submit(other).code(), Code::kNotFound);
  other.session_id = "";
  // What waits or runs counts, and nothing that was refused.
  std::unique_ptr<Sequence> running = admission().inbox().TakeNext();
  EXPECT_FALSE(Submit(other).ok());
  running.reset();
  EXPECT_TRUE(Submit(other).ok());
}

TEST_F(AdmissionTest, RefusesWhatATenantCouldNotFeedForLong) {
  const auto tenant = std::make_shared<Tenant>("acme", 1);
  tenant->SetLimits({.tokens_per_second = 6});
  Request request = TestEngine::Generate(Tokens(3, 1), 5);
  request.received = Tokens(4, 2);
  request.tenant = tenant;
  EXPECT_TRUE(Submit(request).ok());
  EXPECT_EQ(Submit(request).code(), Code::kResourceExhausted);
}

TEST_F(AdmissionTest, ReplaysWhateverATenantMayHave) {
  Request request = Good();
  request.tenant = std::make_shared<Tenant>("", 0);
  request.tenant->SetLimits({.streams = 0});
  Commit(request);
  ExpectReplayed(request);
}

// --- Sessions.

TEST_F(AdmissionTest, RefusesAScoreOnASessionThatIsNotThere) {
  ExpectRefused(TestEngine::Score("nobody", {1}), Code::kNotFound,
                HasSubstr("nobody"));
}

// Its state has another shape, and its slot is of another pool.
TEST_F(AdmissionTest, RefusesAScoreOnASessionOfAnotherModel) {
  ASSERT_TRUE(sessions_.Create(EmptySession("theirs", other_number_)).ok());
  const absl::Status status = Submit(TestEngine::Score("theirs", {1}));
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(
      std::string(status.message()),
      AllOf(HasSubstr("theirs"), HasSubstr("\"other\""), HasSubstr("\"m\"")));
}

TEST_F(AdmissionTest, RefusesATurnOnASessionOfAnotherModel) {
  ASSERT_TRUE(sessions_.Create(EmptySession("a", other_number_)).ok());
  EXPECT_EQ(Submit(Good()).code(), Code::kInvalidArgument);
}

TEST_F(AdmissionTest, ChecksTheRequestBeforeTheSession) {
  ASSERT_TRUE(Submit(Good()).ok());
  Request request = Good();
  EXPECT_EQ(Submit(request).code(), Code::kAborted);
  request.prompt = Tokens(9, 1);
  EXPECT_EQ(Submit(request).code(), Code::kInvalidArgument);
}

// --- The queue.

TEST_F(AdmissionTest, RefusesWhenTheQueueIsFull) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(Submit(TestEngine::Generate({1}, 1)).ok());
  }
  const absl::Status status = Submit(Good());
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("3 requests wait"), HasSubstr("limit 3"),
                    HasSubstr("--max-queue")));
  EXPECT_TRUE(sessions_.List(nullptr, -1, "", 10).empty());
  // There is room again, and the session's turn is not taken.
  admission().inbox().TakeNext();
  EXPECT_TRUE(Submit(Good()).ok());
}

TEST_F(AdmissionTest, SendsNoSessionAwayForARequestThatItRefuses) {
  SessionLimits limits;
  limits.sessions = 2;
  SessionStore sessions(limits, &clock_);
  const int number = sessions.AddModel("m", {.state_bytes = 32});
  Admission admission(limits_,
                      {.number = number, .vocabulary_size = 16, .capacity = {}},
                      &sessions, &clock_);
  ASSERT_TRUE(sessions.Create(EmptySession("old", number)).ok());
  ASSERT_TRUE(sessions.Create(EmptySession("older", number)).ok());
  admission.inbox().Close("closed");
  EXPECT_EQ(
      admission.Submit(TestEngine::Turn("new", "r", {1}, 1)).status().code(),
      Code::kUnavailable);
  EXPECT_EQ(sessions.List(nullptr, -1, "", 10).size(), 2);
}

TEST_F(AdmissionTest, RefusesWithItsReasonOnceClosed) {
  admission().inbox().Close("the server is stopping");
  admission().inbox().Close("a second reason");
  EXPECT_TRUE(admission().inbox().closed());
  ExpectRefused(Good(), Code::kUnavailable, "the server is stopping");
}

TEST_F(AdmissionTest, TakesOutWhatIsCancelledOrLate) {
  Request late = TestEngine::Generate({1}, 1);
  late.request_id = "late";
  late.deadline = clock_.Now() + absl::Seconds(1);
  ASSERT_TRUE(Submit(late).ok());
  ASSERT_TRUE(Submit(TestEngine::Generate({1}, 1)).ok());
  auto cancelled = admission().Submit(TestEngine::Generate({1}, 1));
  std::get<std::shared_ptr<TokenStream>>(*cancelled)
      ->Cancel(absl::CancelledError("left"));
  EXPECT_EQ(admission().inbox().TakeEnded(clock_.Now()).size(), 1);
  const auto ended =
      admission().inbox().TakeEnded(clock_.Now() + absl::Seconds(1));
  ASSERT_EQ(ended.size(), 1);
  EXPECT_EQ(ended[0]->request.request_id, "late");
  EXPECT_EQ(admission().inbox().waiting(), 1);
}

// --- Places are given back.

TEST_F(AdmissionTest, TakesNoPlaceForWhatItRefusesOrReplays) {
  limits_.max_queue = 1;
  const Request request = Good();
  Commit(request);
  Request stale = Good();
  stale.request_id = "stale";
  stale.expected_version = 7;
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(Submit(request).ok());
    EXPECT_EQ(Submit(stale).code(), Code::kFailedPrecondition);
  }
  EXPECT_TRUE(admission().inbox().empty());
  stale.expected_version = 1;
  EXPECT_TRUE(Submit(stale).ok());
  EXPECT_EQ(admission().inbox().waiting(), 1);
  // Both are told the same when nobody else has room.
  EXPECT_TRUE(Submit(request).ok());
  stale.expected_version = 7;
  EXPECT_EQ(Submit(stale).code(), Code::kAborted);
}

TEST_F(AdmissionTest, WaitsOnlyUntilSomethingIsSubmitted) {
  ASSERT_TRUE(Submit(Good()).ok());
  // Returns at once, or this test never ends.
  admission().inbox().WaitForWork(absl::InfiniteDuration());
  admission().inbox().Wake();
  admission().inbox().WaitForWork(absl::InfiniteDuration());
}

}  // namespace
}  // namespace engram
