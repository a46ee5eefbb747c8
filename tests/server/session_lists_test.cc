#include "server/session_lists.h"

#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "server/session.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"

namespace engram {
namespace {

constexpr absl::Time kStart = absl::UnixEpoch();

class SessionListsTest : public ::testing::Test {
 protected:
  SessionListsTest() {
    lists_.AddModel();
    lists_.AddModel();
  }

  // Listed, and used after those before it. It expires `hours` after the start.
  Session* Add(int model, int slot, bool running = false, int hours = 1) {
    auto session = std::make_unique<Session>(Named("s"));
    session->model = model;
    session->slot = slot;
    session->running = running;
    session->use = static_cast<int64_t>(sessions_.size()) + 1;
    session->last_used = kStart;
    session->time_to_live = absl::Hours(hours);
    sessions_.push_back(std::move(session));
    lists_.Enlist(sessions_.back().get());
    return sessions_.back().get();
  }
  static std::shared_ptr<const TurnRecord> Answer(size_t tokens) {
    auto record = std::make_shared<TurnRecord>();
    record->tokens.assign(tokens, 1);
    return record;
  }

  SessionLists lists_;
  std::vector<std::unique_ptr<Session>> sessions_;
};

TEST_F(SessionListsTest, TellWhichIdleOneWasUsedLeastRecently) {
  EXPECT_EQ(lists_.Idle(0), nullptr);
  Add(0, /*slot=*/0, /*running=*/true);
  Session* const in_slot = Add(1, /*slot=*/0);
  Session* const in_ram = Add(0, /*slot=*/-1);
  Session* const other_slot = Add(0, /*slot=*/1);
  Add(0, /*slot=*/-1, /*running=*/true);
  EXPECT_EQ(lists_.Idle(0), in_slot);
  EXPECT_EQ(lists_.IdleInRam(0, nullptr), in_ram);
  EXPECT_EQ(lists_.IdleInRam(0, in_ram), nullptr);
  EXPECT_EQ(lists_.IdleInSlot(0, nullptr), in_slot);
  EXPECT_EQ(lists_.IdleInSlot(0, in_slot), other_slot);
  lists_.Unlist(in_slot);
  EXPECT_EQ(lists_.Idle(0), in_ram);
}

TEST_F(SessionListsTest, GiveUpSlotsOfIdleSessionsFirst) {
  Session* const running = Add(0, /*slot=*/0, /*running=*/true);
  Session* const idle = Add(0, /*slot=*/1);
  EXPECT_EQ(lists_.InSlot(0), idle);
  EXPECT_EQ(lists_.InSlot(1), nullptr);
  lists_.Unlist(idle);
  EXPECT_EQ(lists_.InSlot(0), running);
}

TEST_F(SessionListsTest, FindWhatCanBeDropped) {
  Session* const session = Add(0, /*slot=*/0);
  EXPECT_EQ(lists_.WithSlotCopy(0, nullptr), nullptr);
  EXPECT_EQ(lists_.WithLongAnswer(0, nullptr), nullptr);
  lists_.Unlist(session);
  session->block = MakeBlock(8);
  session->record = Answer(1);
  lists_.Enlist(session);
  EXPECT_EQ(lists_.WithSlotCopy(0, nullptr), session);
  EXPECT_EQ(lists_.WithSlotCopy(0, session), nullptr);
  // It would gain little.
  EXPECT_EQ(lists_.WithLongAnswer(0, nullptr), nullptr);
  lists_.Unlist(session);
  session->record = Answer(100000);
  lists_.Enlist(session);
  EXPECT_EQ(lists_.WithLongAnswer(0, nullptr), session);
}

TEST_F(SessionListsTest, TellWhoseTimeHasCome) {
  Add(0, -1, /*running=*/true, /*hours=*/1);
  Add(0, -1, /*running=*/false, /*hours=*/3);
  Session* const first = Add(1, 0, /*running=*/false, /*hours=*/2);
  const absl::Time due = kStart + absl::Hours(2);
  EXPECT_EQ(lists_.Expired(due - absl::Nanoseconds(1)).first, nullptr);
  EXPECT_EQ(lists_.Expired(due).first, first);
  EXPECT_EQ(lists_.Expired(due + absl::Hours(9)).second, due);
  lists_.Unlist(first);
  EXPECT_EQ(lists_.Expired(due).first, nullptr);
}

}  // namespace
}  // namespace engram
