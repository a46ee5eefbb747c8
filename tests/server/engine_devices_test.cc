// One model on two devices: where requests run, and that a session goes on
// wherever its state has been. Answers are compared with those that follow from
// the tokens alone.
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/engine.h"
#include "server/slot_number.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"

namespace engram {
namespace {

using ::testing::ElementsAre;

class EngineDevicesTest : public ::testing::Test {
 protected:
  EngineDevicesTest() : engine_(Options()) {
    engine_.RunOnce();  // they tell what they have
  }
  ~EngineDevicesTest() override { engine_.ExpectNoSlotLost(); }

  static TestEngineOptions Options() {
    TestEngineOptions options;
    options.devices = 2;
    options.model.slots = 2;
    return options;
  }

  // A turn of three tokens, whose answer is checked and remembered.
  Reader RunTurn(const std::string& id) {
    const Request request = NextTurn(id);
    Reader reader = engine_.Run(request);
    Check(request, reader);
    return reader;
  }
  Request NextTurn(const std::string& id, int64_t max_tokens = 3) {
    return TestEngine::Turn(id, absl::StrCat("r", ++requests_), {1, 2},
                            max_tokens);
  }
  void Check(const Request& request, const Reader& reader) {
    Tokens& history = histories_[request.session_id];
    const ExpectedAnswer expected = engine_.Expect(history, request);
    ASSERT_TRUE(reader.status().ok()) << reader.status();
    EXPECT_EQ(reader.ids(), expected.tokens);
    history.insert(history.end(), request.prompt.begin(), request.prompt.end());
    history.insert(history.end(), expected.tokens.begin(),
                   expected.tokens.end());
  }
  // All that a reader gets while the engines run.
  void Finish(Reader* reader) {
    do {
      reader->Read();
    } while (engine_.RunOnce());
    reader->Read();
  }
  // Session "a" has its state in a slot of device 0, where so many requests
  // wait that there is no room for more; device 1 has room.
  std::vector<Reader> LeaveNoRoomAt0() {
    RunTurn("a");
    EXPECT_EQ(engine_.sessions.DeviceOf(Named("a")), 0);
    std::vector<Reader> waiting;
    for (int i = 0; i < 4; ++i) {
      waiting.push_back(engine_.Submit(TestEngine::Generate({7}, 4)));
    }
    EXPECT_EQ(engine_.admission.inbox(0).waiting(), 2);
    EXPECT_EQ(engine_.admission.inbox(1).waiting(), 2);
    while (engine_.engine_of(1).RunOnce()) {
    }
    return waiting;
  }

  TestEngine engine_;
  std::map<std::string, Tokens> histories_;

 private:
  int requests_ = 0;
};

TEST_F(EngineDevicesTest, SessionsAreSpreadOverTheDevices) {
  std::vector<int> devices;
  for (const char* const id : {"a", "b", "c", "d"}) {
    RunTurn(id);
    devices.push_back(*engine_.sessions.DeviceOf(Named(id)));
  }
  EXPECT_THAT(devices, ElementsAre(0, 1, 0, 1));
}

TEST_F(EngineDevicesTest, RequestsThatComeTogetherAreSpreadToo) {
  for (int i = 0; i < 4; ++i) {
    engine_.Submit(TestEngine::Generate({1}, 5));
  }
  engine_.RunOnce();
  EXPECT_EQ(engine_.engine.running(), 2);
  EXPECT_EQ(engine_.engine_of(1).running(), 2);
  engine_.RunUntilIdle();
}

TEST_F(EngineDevicesTest, ASessionGoesOnWhereItsStateIs) {
  RunTurn("a");
  RunTurn("b");
  for (int i = 0; i < 3; ++i) {
    RunTurn("b");
    EXPECT_EQ(engine_.sessions.DeviceOf(Named("b")), 1);
  }
  EXPECT_EQ(engine_.sessions.Counts().models[0].restores, 0);
}

TEST_F(EngineDevicesTest, ASessionMovesToWhereThereIsRoom) {
  const std::vector<Reader> waiting = LeaveNoRoomAt0();
  const Request request = NextTurn("a");
  Reader reader = engine_.Submit(request);
  EXPECT_EQ(engine_.admission.inbox(1).waiting(), 1);
  // Its state is still on its way.
  while (engine_.engine_of(1).RunOnce()) {
  }
  EXPECT_EQ(engine_.engine_of(1).running(), 0);
  EXPECT_EQ(engine_.admission.inbox(1).waiting(), 1);
  Finish(&reader);
  Check(request, reader);
  EXPECT_EQ(engine_.sessions.DeviceOf(Named("a")), 1);
  RunTurn("a");
}

TEST_F(EngineDevicesTest, WhoeverWaitsForAStateHoldsUpNobody) {
  const std::vector<Reader> waiting = LeaveNoRoomAt0();
  const Request request = NextTurn("a");
  Reader reader = engine_.Submit(request);
  engine_.engine_of(1).RunOnce();
  const Request other = NextTurn("b");
  Reader other_reader = engine_.Submit(other);
  while (engine_.engine_of(1).RunOnce()) {
  }
  other_reader.Read();
  Check(other, other_reader);
  Finish(&reader);
  Check(request, reader);
}

TEST_F(EngineDevicesTest, WhoeverWaitsForAStateCanBeCancelled) {
  const std::vector<Reader> waiting = LeaveNoRoomAt0();
  Reader reader = engine_.Submit(NextTurn("a"));
  engine_.engine_of(1).RunOnce();
  reader.Cancel();
  engine_.engine_of(1).RunOnce();
  reader.Read();
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kCancelled);
  engine_.RunUntilIdle();
  RunTurn("a");
}

TEST_F(EngineDevicesTest, ASessionIsScoredWhereThereIsRoom) {
  const std::vector<Reader> waiting = LeaveNoRoomAt0();
  Reader reader = engine_.Submit(TestEngine::Score("a", {3, 4}));
  EXPECT_EQ(engine_.admission.inbox(1).waiting(), 1);
  Finish(&reader);
  ASSERT_TRUE(reader.status().ok()) << reader.status();
  EXPECT_EQ(reader.logprobs(),
            ExpectScore(engine_.script, histories_["a"], {3, 4}));
  RunTurn("a");
}

TEST_F(EngineDevicesTest, AStateOfADeviceThatHasEndedIsMissedAloud) {
  const std::vector<Reader> waiting = LeaveNoRoomAt0();
  engine_.admission.inbox(0).CloseTasks();
  Reader reader = engine_.Submit(NextTurn("a"));
  engine_.engine_of(1).RunOnce();
  engine_.engine_of(1).RunOnce();
  reader.Read();
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(engine_.admission.inbox(1).closed()) << "its own is sound";
  engine_.RunUntilIdle();
}

TEST_F(EngineDevicesTest, AnEngineThatDrainsStaysForWhoMayWantItsStates) {
  const std::vector<Reader> waiting = LeaveNoRoomAt0();
  const Request request = NextTurn("a");
  Reader reader = engine_.Submit(request);
  engine_.admission.Close("the server is stopping");
  for (int i = 0; i < 2; ++i) {
    engine_.engine_of(i).Drain(absl::InfiniteFuture());
  }
  int ends = 0;
  absl::Notification is_idle, has_left;
  engine_.on_end = [&](const RequestSummary&) {
    if (++ends == 2) is_idle.Notify();
  };
  std::thread first([&] {
    EXPECT_TRUE(engine_.engine.Run().ok());
    has_left.Notify();
  });
  is_idle.WaitForNotification();
  EXPECT_FALSE(has_left.WaitForNotificationWithTimeout(absl::Milliseconds(50)));
  EXPECT_TRUE(engine_.engine_of(1).Run().ok());
  first.join();
  reader.Read();
  Check(request, reader);
}

TEST_F(EngineDevicesTest, ASessionIsForkedWhicheverEngineIsAsked) {
  RunTurn("a");
  RunTurn("b");
  ASSERT_EQ(engine_.sessions.DeviceOf(Named("b")), 1);
  ASSERT_TRUE(engine_.Fork("b", "c").ok());
  histories_["c"] = histories_["b"];
  RunTurn("c");
  RunTurn("b");
}

// More than are made between two steps.
TEST_F(EngineDevicesTest, CopiesFollowAStateThatHasMoved) {
  constexpr int kCopies = 40;
  const std::vector<Reader> waiting = LeaveNoRoomAt0();
  const Request request = NextTurn("a");
  Reader reader = engine_.Submit(request);
  engine_.engine_of(1).RunOnce();
  std::vector<int64_t> versions;
  for (int i = 0; i < kCopies; ++i) {
    engine_.engine.Snapshot(
        *engine_.sessions.Find(Named("a")),
        [&](absl::StatusOr<StateSnapshots::Snapshot> snapshot) {
          ASSERT_TRUE(snapshot.ok()) << snapshot.status();
          versions.push_back(snapshot->turns.version);
        });
  }
  engine_.engine.RunOnce();
  ASSERT_LT(versions.size(), kCopies);
  while (engine_.engine_of(1).RunOnce()) {
  }
  ASSERT_EQ(engine_.sessions.DeviceOf(Named("a")), 1);
  Finish(&reader);
  Check(request, reader);
  ASSERT_EQ(versions.size(), kCopies);
  EXPECT_EQ(versions.front(), 1);
  EXPECT_EQ(versions.back(), 2);
}

TEST_F(EngineDevicesTest, ADeletedSessionsSlotIsFreeOnItsDevice) {
  RunTurn("a");
  RunTurn("b");
  ASSERT_TRUE(engine_.sessions.Delete(Named("b")).ok());
  engine_.RunOnce();
  EXPECT_EQ(engine_.model_of(0).states().free_slots(), 1);
  EXPECT_EQ(engine_.model_of(1).states().free_slots(), 2);
}

TEST_F(EngineDevicesTest, StatesThatMakeWayAreThoseOfTheSameDevice) {
  for (const char* const id : {"a", "b", "c", "d", "e", "f"}) RunTurn(id);
  EXPECT_EQ(engine_.sessions.Counts().models[0].evictions_slot_to_ram, 2);
  for (const char* const id : {"a", "b", "c", "d", "e", "f"}) RunTurn(id);
}

TEST_F(EngineDevicesTest, ADeviceThatFailsEndsWhatItRunsAndTakesNoMore) {
  engine_.model_of(1).FailStep(1);
  Reader first = engine_.Submit(TestEngine::Generate({1}, 5));
  Reader second = engine_.Submit(TestEngine::Generate({1}, 5));
  Finish(&first);
  Finish(&second);
  EXPECT_TRUE(first.status().ok()) << first.status();
  EXPECT_EQ(second.status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(engine_.Run(TestEngine::Generate({1}, 5)).status().ok());
  EXPECT_TRUE(engine_.Run(TestEngine::Generate({1}, 5)).status().ok());
}

}  // namespace
}  // namespace engram
