#include "server/session_pages.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/session.h"
#include "tests/support/named.h"

namespace engram {
namespace {

constexpr absl::Time kNow = absl::UnixEpoch();

class SessionPagesTest : public ::testing::Test {
 protected:
  SessionPagesTest() : table_(SessionLimits()) {
    table_.AddModel("first", {.state_bytes = 100});
    table_.AddModel("second", {.state_bytes = 200});
  }

  SessionHandle Add(const std::string& id, int model,
                    bool made_by_turn = false) {
    NewSession made = {.name = Named(id), .model = model};
    SessionHandle session = MakeSession(std::move(made), absl::Hours(1));
    session->made_by_turn = made_by_turn;
    table_.Add(session, kNow);
    return session;
  }
  std::vector<std::string> List(int model, size_t count, std::string* after) {
    std::vector<SessionInfo> page;
    more_ = ListSomeSessions(table_, nullptr, model, count, after, &page);
    std::vector<std::string> ids;
    for (const SessionInfo& info : page) ids.push_back(info.session_id);
    return ids;
  }

  SessionTable table_;
  bool more_ = false;
};

using Ids = std::vector<std::string>;

TEST_F(SessionPagesTest, DescribeWhereAStateLies) {
  const SessionHandle session = Add("a", 1);
  EXPECT_EQ(DescribeSession(table_, *session).tier, "none");
  {
    const SessionTable::Relisting relisting(&table_, session.get());
    session->slot = 0;
    session->turns.position = 3;
  }
  const SessionInfo info = DescribeSession(table_, *session);
  EXPECT_EQ(info.model, "second");
  EXPECT_EQ(info.tier, "slot");
  EXPECT_EQ(info.position, 3);
  EXPECT_EQ(info.expire_time, kNow + absl::Hours(1));
}

TEST_F(SessionPagesTest, GoOnBehindTheLastId) {
  Add("c", 0);
  Add("a", 0);
  Add("b", 1);
  std::string after;
  EXPECT_EQ(List(-1, 2, &after), (Ids{"a", "b"}));
  EXPECT_TRUE(more_);
  EXPECT_EQ(List(-1, 2, &after), Ids{"c"});
  EXPECT_FALSE(more_);
  after.clear();
  EXPECT_EQ(List(0, 9, &after), (Ids{"a", "c"}));
}

TEST_F(SessionPagesTest, PassOverSessionsInTheirFirstTurn) {
  Add("a", 0, /*made_by_turn=*/true);
  Add("b", 0);
  std::string after;
  EXPECT_EQ(List(-1, 1, &after), Ids{"b"});
}

TEST_F(SessionPagesTest, StopAfterSomeDozens) {
  for (int i = 1000; i < 2000; ++i) Add(absl::StrCat(i), 0);
  std::string after;
  const size_t listed = List(-1, 1000, &after).size();
  EXPECT_TRUE(more_);
  EXPECT_GT(listed, 0);
  EXPECT_LT(listed, 1000);
  EXPECT_EQ(after, absl::StrCat(999 + listed));
}

}  // namespace
}  // namespace engram
