#include "server/session_table.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "server/session.h"
#include "tests/support/named.h"

namespace engram {
namespace {

constexpr absl::Time kNow = absl::UnixEpoch();

class SessionTableTest : public ::testing::Test {
 protected:
  SessionTableTest() : table_(SessionLimits()) {
    table_.AddModel("m", {.state_bytes = 100});
  }

  SessionHandle Add(const std::string& id, int slot = -1) {
    NewSession made = {.name = Named(id)};
    SessionHandle session = MakeSession(std::move(made), absl::Hours(1));
    session->slot = slot;
    table_.Add(session, kNow);
    return session;
  }

  SessionTable table_;
};

TEST_F(SessionTableTest, FindsNoneThatWasRemovedAndReleasesItsSlot) {
  const SessionHandle removed = Add("a", /*slot=*/3);
  EXPECT_EQ(table_.Find(Named("a")), removed);
  EXPECT_EQ(table_.size(), 1);
  EXPECT_EQ(table_.sessions_of(nullptr).by_model[0].size(), 1);
  table_.Remove(removed);
  EXPECT_TRUE(removed->deleted);
  EXPECT_EQ(table_.Find(Named("a")), nullptr);
  EXPECT_EQ(table_.size(), 0);
  EXPECT_TRUE(table_.sessions_of(nullptr).by_id.empty());
  EXPECT_TRUE(table_.sessions_of(nullptr).by_model[0].empty());
  EXPECT_EQ(table_.lists().Idle(0), nullptr);
  EXPECT_EQ(table_.TakeReleasedSlots(0), std::vector<int>{3});
  EXPECT_TRUE(table_.TakeReleasedSlots(0).empty());
}

TEST_F(SessionTableTest, TellsOfADepartureUnlessNothingIsLost) {
  const SessionHandle fed = Add("fed");
  fed->turns.position = 1;
  table_.Depart(fed.get(), "evicted");
  table_.Depart(Add("empty").get(), "evicted");
  EXPECT_TRUE(table_.HasDeparted(Named("fed")));
  EXPECT_FALSE(table_.HasDeparted(Named("empty")));
  const std::string told(table_.Get(Named("fed")).status().message());
  EXPECT_NE(told.find("is gone, evicted"), std::string::npos) << told;
  Add("fed");
  EXPECT_FALSE(table_.HasDeparted(Named("fed")));
}

TEST_F(SessionTableTest, ListsASessionAsItIsAfterItsFieldsChanged) {
  const SessionHandle session = Add("a");
  EXPECT_EQ(table_.lists().InSlot(0), nullptr);
  {
    const SessionTable::Relisting relisting(&table_, session.get());
    session->slot = 0;
  }
  EXPECT_EQ(table_.lists().InSlot(0), session.get());
  EXPECT_EQ(table_.Counts().models[0].sessions_in_slots, 1);
}

// Freed by whoever takes it, and not before.
TEST_F(SessionTableTest, KeepsWhatIsDiscardedUntilItIsTaken) {
  SessionHandle session = Add("a");
  const std::weak_ptr<Session> alive = session;
  table_.Remove(session);
  session = nullptr;
  EXPECT_FALSE(alive.expired());
  table_.TakeDiscarded();
  EXPECT_TRUE(alive.expired());
}

}  // namespace
}  // namespace engram
