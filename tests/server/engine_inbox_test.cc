#include "server/engine_inbox.h"

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Code = absl::StatusCode;

Request Named(const std::string& id, int priority = 0) {
  Request request = TestEngine::Generate({1}, 1);
  request.request_id = id;
  request.priority = priority;
  return request;
}

std::unique_ptr<Sequence> MakeSequence(const Request& request) {
  return std::make_unique<Sequence>(request, nullptr,
                                    std::make_shared<TokenStream>(1, [] {}));
}

class EngineInboxTest : public ::testing::Test {
 protected:
  // What refuses it, if anything does.
  absl::Status Add(const Request& request) {
    absl::StatusOr<EngineInbox::Place> place = inbox_.Reserve(request);
    if (!place.ok()) return place.status();
    inbox_.Enqueue(*std::move(place), MakeSequence(request));
    return absl::OkStatus();
  }
  std::string TakeNext() {
    const std::unique_ptr<Sequence> next = inbox_.TakeNext();
    return next == nullptr ? "" : next->request.request_id;
  }

  FakeClock clock_;
  EngineInbox inbox_{/*max_queue=*/3, absl::Seconds(2), &clock_};
};

// --- Places.

TEST_F(EngineInboxTest, CountsAPlaceThatIsReservedAsTaken) {
  ASSERT_TRUE(Add(Named("a")).ok());
  ASSERT_TRUE(Add(Named("b")).ok());
  std::optional<absl::StatusOr<EngineInbox::Place>> third =
      inbox_.Reserve(Named("c"));
  ASSERT_TRUE(third->ok());
  EXPECT_EQ(inbox_.waiting(), 2);
  const absl::Status full = Add(Named("d"));
  EXPECT_EQ(full.code(), Code::kUnavailable);
  EXPECT_THAT(std::string(full.message()),
              AllOf(HasSubstr("3 requests wait"), HasSubstr("limit 3"),
                    HasSubstr("--max-queue")));
  EXPECT_TRUE(RetryAfter(full).has_value());
  // Given back, it is there for another.
  third.reset();
  EXPECT_TRUE(Add(Named("d")).ok());
}

TEST_F(EngineInboxTest, FillsAPlaceEvenIfItIsClosedMeanwhile) {
  absl::StatusOr<EngineInbox::Place> place = inbox_.Reserve(Named("a"));
  ASSERT_TRUE(place.ok());
  inbox_.Close("the server is stopping");
  EXPECT_FALSE(inbox_.empty());
  EXPECT_EQ(inbox_.Reserve(Named("b")).status(),
            absl::UnavailableError("the server is stopping"));
  inbox_.Enqueue(*std::move(place), MakeSequence(Named("a")));
  EXPECT_EQ(TakeNext(), "a");
  inbox_.Started();
  EXPECT_TRUE(inbox_.empty());
}

TEST_F(EngineInboxTest, TakesLastWhatHadAPlaceWhenItWasClosed) {
  absl::StatusOr<EngineInbox::Place> place = inbox_.Reserve(Named("a"));
  ASSERT_TRUE(place.ok());
  inbox_.Close("failed");
  std::thread submit(
      [&] { inbox_.Enqueue(*std::move(place), MakeSequence(Named("a"))); });
  EXPECT_EQ(inbox_.TakeLast().size(), 1);
  submit.join();
}

TEST_F(EngineInboxTest, WakesAnEngineThatDrainsWhenTheLastPlaceIsGivenBack) {
  {
    const absl::StatusOr<EngineInbox::Place> place = inbox_.Reserve(Named("a"));
    ASSERT_TRUE(place.ok());
    inbox_.Close("the server is stopping");
    inbox_.WaitForWork(absl::ZeroDuration());
  }
  // Returns at once, or this test never ends.
  inbox_.WaitForWork(absl::InfiniteDuration());
  EXPECT_TRUE(inbox_.empty());
}

TEST_F(EngineInboxTest, CountsReservedPlacesIntoTheWaitOfTheNext) {
  // Prompts take four seconds each, and there is a slot for two.
  inbox_.SetLoad({.free_slots = 2, .time_per_prompt_token = absl::Seconds(4)},
                 {});
  const absl::StatusOr<EngineInbox::Place> place = inbox_.Reserve(Named("a"));
  ASSERT_TRUE(place.ok());
  const absl::Status busy = inbox_.Reserve(Named("b")).status();
  EXPECT_EQ(busy.code(), Code::kUnavailable);
  EXPECT_THAT(
      std::string(busy.message()),
      AllOf(HasSubstr("would wait about 4s"), HasSubstr("--max-queue-time")));
  // It does not wait for what matters less.
  EXPECT_TRUE(inbox_.Reserve(Named("b", 1)).ok());
}

// --- The queue.

TEST_F(EngineInboxTest, GivesOutTheHighestPriorityThenTheEarliest) {
  ASSERT_TRUE(Add(Named("first")).ok());
  ASSERT_TRUE(Add(Named("high", 1)).ok());
  ASSERT_TRUE(Add(Named("second")).ok());
  EXPECT_EQ(inbox_.Next()->priority, 1);
  EXPECT_EQ(TakeNext(), "high");
  EXPECT_EQ(TakeNext(), "first");
  EXPECT_EQ(TakeNext(), "second");
  EXPECT_EQ(TakeNext(), "");
  EXPECT_FALSE(inbox_.Next().has_value());
}

TEST_F(EngineInboxTest, PutsBackBeforeTheOthersOfItsPriority) {
  ASSERT_TRUE(Add(Named("first")).ok());
  ASSERT_TRUE(Add(Named("second")).ok());
  inbox_.PutBack(inbox_.TakeNext());
  EXPECT_EQ(TakeNext(), "first");
}

TEST_F(EngineInboxTest, TakesOutWhatHasWaitedTooLong) {
  ASSERT_TRUE(Add(Named("late")).ok());
  clock_.Advance(absl::Seconds(2));
  EXPECT_TRUE(inbox_.TakeOverdue(clock_.Now()).empty());
  clock_.Advance(absl::Milliseconds(1));
  ASSERT_TRUE(Add(Named("new")).ok());
  const auto overdue = inbox_.TakeOverdue(clock_.Now());
  ASSERT_EQ(overdue.size(), 1);
  const absl::Status told = inbox_.Overdue(*overdue[0], clock_.Now());
  EXPECT_EQ(told.code(), Code::kUnavailable);
  EXPECT_THAT(std::string(told.message()),
              HasSubstr("waited 2.001s, limit 2s"));
  EXPECT_TRUE(RetryAfter(told).has_value());
  EXPECT_EQ(inbox_.waiting(), 1);
}

// --- Several engines.

TEST_F(EngineInboxTest, TellsTheRoomThatIsLeftByThoseOnTheirWay) {
  QueueLoad load;
  load.free_slots = 4;
  load.empty_slots = 3;
  inbox_.SetLoad(load, {});
  ASSERT_TRUE(Add(Named("a")).ok());
  const auto place = inbox_.Reserve(Named("b"));
  EXPECT_EQ(inbox_.Room().slots, 2);
  EXPECT_EQ(inbox_.Room().empty_slots, 1);
  // It has its slot, of which the engine will tell.
  EXPECT_EQ(TakeNext(), "a");
  inbox_.Started();
  EXPECT_EQ(inbox_.Room().slots, 2);
  load.free_slots = 3;
  load.empty_slots = 2;
  inbox_.SetLoad(load, {});
  EXPECT_EQ(inbox_.Room().slots, 2);
  EXPECT_EQ(inbox_.Room().empty_slots, 1);
  EXPECT_TRUE(inbox_.Room().is_open);
  inbox_.Close("over");
  EXPECT_FALSE(inbox_.Room().is_open);
}

TEST_F(EngineInboxTest, WhoseStateIsOnItsWayIsOvertaken) {
  ASSERT_TRUE(Add(Named("a", /*priority=*/2)).ok());
  ASSERT_TRUE(Add(Named("b", /*priority=*/1)).ok());
  std::unique_ptr<Sequence> first = inbox_.TakeNext();
  const auto fetch = std::make_shared<StateFetch>();
  first->fetch = fetch;
  inbox_.PutBack(std::move(first));
  EXPECT_EQ(inbox_.Next()->priority, 1);
  EXPECT_EQ(TakeNext(), "b");
  EXPECT_FALSE(inbox_.Next().has_value());
  EXPECT_EQ(TakeNext(), "");
  EXPECT_EQ(inbox_.waiting(), 1);
  fetch->End(StateSnapshots::Snapshot());
  EXPECT_EQ(TakeNext(), "a");
}

// Other engines that drain would not wait for it.
TEST_F(EngineInboxTest, IsNotEmptyAsLongAsWhoWasTakenMayWaitOn) {
  ASSERT_TRUE(Add(Named("a")).ok());
  ASSERT_TRUE(Add(Named("b")).ok());
  inbox_.PutBack(inbox_.TakeNext());
  EXPECT_EQ(TakeNext(), "a");
  inbox_.NotStarted();
  std::unique_ptr<Sequence> taken = inbox_.TakeNext();
  EXPECT_FALSE(inbox_.empty());
  inbox_.PutBack(std::move(taken));
  EXPECT_FALSE(inbox_.empty());
  EXPECT_EQ(TakeNext(), "b");
  inbox_.Started();
  EXPECT_TRUE(inbox_.empty());
  ASSERT_TRUE(Add(Named("c")).ok());
  EXPECT_EQ(TakeNext(), "c");
  inbox_.NotStarted();
  EXPECT_TRUE(inbox_.empty());
}

// --- Tasks.

TEST_F(EngineInboxTest, TakesATaskForARequestHoweverManyWait) {
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(inbox_.Post([] {}).ok());
  EXPECT_TRUE(inbox_.PostForRequest([] {}).ok());
  EXPECT_EQ(inbox_.TakeTasks().size(), 4);
  inbox_.CloseTasks();
  EXPECT_EQ(inbox_.PostForRequest([] {}).code(), Code::kUnavailable);
}

TEST_F(EngineInboxTest, RefusesATaskWhenAsManyWaitAsTheQueueMayHold) {
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(inbox_.Post([] {}).ok());
  EXPECT_EQ(inbox_.Post([] {}).code(), Code::kUnavailable);
  EXPECT_EQ(inbox_.TakeTasks().size(), 3);
  EXPECT_TRUE(inbox_.Post([] {}).ok());
}

TEST_F(EngineInboxTest, RefusesATaskThatNobodyWouldRun) {
  inbox_.CloseTasks();
  EXPECT_EQ(inbox_.Post([] {}).code(), Code::kUnavailable);
}

// --- Tenants.

class EngineInboxTenantsTest : public ::testing::Test {
 protected:
  static Request Of(const TenantHandle& tenant, const std::string& id,
                    int priority = 0, int tokens = 1) {
    Request request = TestEngine::Generate(Tokens(tokens, 1), 1);
    request.request_id = id;
    request.priority = priority;
    request.tenant = tenant;
    return request;
  }
  absl::Status Add(const Request& request) {
    absl::StatusOr<EngineInbox::Place> place = inbox_.Reserve(request);
    if (!place.ok()) return place.status();
    clock_.Advance(absl::Milliseconds(1));
    inbox_.Enqueue(*std::move(place), MakeSequence(request));
    return absl::OkStatus();
  }

  const TenantHandle many_ = std::make_shared<Tenant>("many", 1);
  const TenantHandle few_ = std::make_shared<Tenant>("few", 2);
  FakeClock clock_;
  EngineInbox inbox_{/*max_queue=*/12, absl::Seconds(2), &clock_};
};

TEST_F(EngineInboxTenantsTest, KeepsPlacesForOtherTenants) {
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(Add(Of(many_, "m")).ok());
  const absl::Status full = Add(Of(many_, "m"));
  EXPECT_EQ(full.code(), Code::kUnavailable);
  EXPECT_THAT(
      std::string(full.message()),
      AllOf(HasSubstr("tenant \"many\""), HasSubstr("6 of its requests"),
            HasSubstr("limit 6 of 12"), HasSubstr("--max-queue")));
  EXPECT_TRUE(RetryAfter(full).has_value());
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Add(Of(few_, "f")).ok());
  EXPECT_FALSE(Add(Of(few_, "f")).ok());
  // Without a name all that is left.
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(Add(Of(nullptr, "n")).ok());
  EXPECT_THAT(std::string(Add(Of(nullptr, "n")).message()),
              HasSubstr("12 requests wait, limit 12"));
}

TEST_F(EngineInboxTenantsTest, HasOnePlaceForWhoeverHasNone) {
  few_->SetLimits({.weight = 0.01});
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(Add(Of(many_, "m")).ok());
  EXPECT_TRUE(Add(Of(few_, "f")).ok());
  EXPECT_FALSE(Add(Of(few_, "f")).ok());
}

TEST_F(EngineInboxTenantsTest, HasHalfOfItsPlacesForALoneTenantHoweverLight) {
  few_->SetLimits({.weight = 0.01});
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(Add(Of(few_, "f")).ok());
  EXPECT_THAT(std::string(Add(Of(few_, "f")).message()),
              HasSubstr("limit 6 of 12"));
}

TEST_F(EngineInboxTenantsTest, LetsWhoHasFewestSlotsGoFirst) {
  ASSERT_TRUE(Add(Of(many_, "m1", /*priority=*/5)).ok());
  ASSERT_TRUE(Add(Of(few_, "f1")).ok());
  ASSERT_TRUE(Add(Of(few_, "f2", /*priority=*/1)).ok());
  SlotShares shares;
  shares.Took(1, 1);
  EXPECT_EQ(inbox_.Next(shares)->tenant, 2);
  EXPECT_EQ(inbox_.TakeNext(shares)->request.request_id, "f2");
  shares.Took(2, 1);
  shares.Took(2, 1);
  EXPECT_EQ(inbox_.TakeNext(shares)->request.request_id, "m1");
  EXPECT_EQ(inbox_.TakeNext(shares)->request.request_id, "f1");
}

TEST_F(EngineInboxTenantsTest, TellsTheTimeThatATenantsOwnRequestsTake) {
  EngineInbox inbox(/*max_queue=*/12, absl::Hours(1), &clock_);
  const auto add = [&](const Request& request) {
    absl::StatusOr<EngineInbox::Place> place = inbox.Reserve(request);
    ASSERT_TRUE(place.ok()) << place.status();
    inbox.Enqueue(*std::move(place), MakeSequence(request));
  };
  const Request one_more = Of(many_, "m", 0, /*tokens=*/100);
  const Request other = Of(few_, "f", 0, /*tokens=*/3);
  // All slots are taken, and one is free every 100 ms.
  for (int i = 0; i < 5; ++i) add(one_more);
  for (int i = 0; i < 20; ++i) {
    clock_.Advance(absl::Milliseconds(100));
    inbox.TakeNext();
    inbox.Started();
    add(one_more);
  }
  EXPECT_EQ(inbox.RetryTime(one_more), absl::Milliseconds(600));
  EXPECT_EQ(inbox.RetryTime(other), absl::Milliseconds(200));
  add(other);
  EXPECT_EQ(inbox.RetryTime(other), absl::Milliseconds(400));
  // The other tenant would be given half of the slots.
  QueueLoad load;
  load.slots = 4;
  load.time_per_prompt_token = absl::Milliseconds(100);
  load.tenants = {{.tenant = 1, .slots = 4}};
  inbox.SetLoad(load, {PromptAheadOf(one_more)});
  EXPECT_EQ(inbox.RetryTime(other), absl::Milliseconds(300));
  add(other);
  EXPECT_GT(inbox.RetryTime(other), absl::Milliseconds(600));
}

}  // namespace
}  // namespace engram
