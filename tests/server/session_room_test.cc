#include "server/session_room.h"

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

using Found = SessionRoom::Found;

constexpr absl::Time kNow = absl::UnixEpoch();
constexpr size_t kBlockBytes = 100000;
constexpr size_t kMemoryBytes = size_t{1} << 30;

std::shared_ptr<const StateBlock> MakeBlock() {
  return std::make_shared<const StateBlock>(
      *AllocateOrdinaryMemory(kBlockBytes));
}

class SessionRoomTest : public ::testing::Test {
 protected:
  SessionRoomTest()
      : limits_{.memory_bytes = kMemoryBytes, .sessions = 100},
        table_(limits_),
        room_(limits_, &table_) {
    table_.AddModel("m", {.state_bytes = kBlockBytes});
  }

  SessionHandle Add(const std::string& id, int slot,
                    std::shared_ptr<const StateBlock> block,
                    bool running = false) {
    NewSession made = {.name = Named(id)};
    SessionHandle session = MakeSession(std::move(made), absl::Hours(1));
    session->slot = slot;
    session->block = std::move(block);
    session->running = running;
    table_.Add(session, kNow);
    return session;
  }
  // As many as are free, and some.
  size_t MoreThanIsFree() const {
    return kMemoryBytes - table_.Counts().ram_bytes + 1;
  }

  const SessionLimits limits_;
  SessionTable table_;
  SessionRoom room_;
};

TEST_F(SessionRoomTest, DropsCopiesBeforeSessionsAndNothingThatIsKept) {
  const SessionHandle kept = Add("kept", /*slot=*/-1, MakeBlock());
  const SessionHandle idle = Add("idle", /*slot=*/-1, MakeBlock());
  const SessionHandle copied = Add("copied", /*slot=*/0, MakeBlock());
  EXPECT_EQ(room_.FindBytes(MoreThanIsFree(), kept.get()), Found::kFits);
  EXPECT_EQ(copied->block, nullptr);
  EXPECT_FALSE(idle->deleted);
  EXPECT_EQ(room_.FindBytes(MoreThanIsFree(), kept.get()), Found::kFits);
  EXPECT_TRUE(idle->deleted);
  EXPECT_EQ(room_.FindBytes(MoreThanIsFree(), kept.get()), Found::kNone);
  EXPECT_FALSE(kept->deleted);
}

TEST_F(SessionRoomTest, DropsNothingForWhatCouldNeverFit) {
  const SessionHandle idle = Add("idle", /*slot=*/-1, MakeBlock());
  EXPECT_EQ(room_.FindBytes(kMemoryBytes + 1, nullptr), Found::kNone);
  EXPECT_FALSE(idle->deleted);
}

TEST_F(SessionRoomTest, StopsAfterSomeDozensOfSessions) {
  for (int i = 0; i < 100; ++i) {
    Add(absl::StrCat("s", i), /*slot=*/-1, MakeBlock());
  }
  EXPECT_EQ(room_.FindBytes(kMemoryBytes, nullptr), Found::kNotYet);
  EXPECT_GT(table_.size(), 0);
  EXPECT_EQ(room_.FindBytes(kMemoryBytes, nullptr), Found::kFits);
  EXPECT_EQ(table_.size(), 0);
}

TEST_F(SessionRoomTest, FindsAPlaceUnlessAllHaveTurns) {
  const SessionHandle idle = Add("idle", /*slot=*/-1, nullptr);
  for (int i = 0; i < 99; ++i) {
    Add(absl::StrCat("s", i), /*slot=*/-1, nullptr, /*running=*/true);
  }
  EXPECT_TRUE(room_.FindPlace(nullptr).ok());
  EXPECT_TRUE(idle->deleted);
  EXPECT_TRUE(room_.FindPlace(nullptr).ok());
  Add("another", /*slot=*/-1, nullptr, /*running=*/true);
  EXPECT_EQ(room_.FindPlace(nullptr).code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(SessionRoomTest, ExpiresSomeDozensOfSessionsAtATime) {
  for (int i = 0; i < 100; ++i) {
    Add(absl::StrCat("s", i), /*slot=*/-1, nullptr);
  }
  EXPECT_TRUE(room_.ExpireSome(kNow));
  EXPECT_EQ(table_.size(), 100);
  EXPECT_FALSE(room_.ExpireSome(kNow + absl::Hours(1)));
  EXPECT_GT(table_.size(), 0);
  EXPECT_TRUE(room_.ExpireSome(kNow + absl::Hours(1)));
  EXPECT_EQ(table_.size(), 0);
}

}  // namespace
}  // namespace engram
