// Sessions and checkpoints whose states come from elsewhere.
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/session_store.h"
#include "tests/server/store_test.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

using Code = absl::StatusCode;
using Replaced = SessionStore::Replaced;

// What a session with a state takes at most, its own fields included.
constexpr size_t kSessionBytes = kStateBytes + 2048;

class SessionImportsTest : public StoreTest {
 protected:
  static CommittedTurns TurnsAt(int64_t version) {
    CommittedTurns turns;
    turns.version = version;
    turns.position = 7;
    turns.pending = 1;
    return turns;
  }
  static SessionName NameOf(const TenantHandle& tenant,
                            const std::string& id = "s") {
    return SessionName(tenant, id);
  }

  absl::StatusOr<SessionInfo> Finish(const SessionName& name,
                                     const Replaced& replaced,
                                     int64_t version = 3, int model = 0) {
    return store().Import({.name = name, .model = model}, replaced,
                          TurnsAt(version), MakeBlock(kStateBytes));
  }
  absl::StatusOr<SessionInfo> Import(const SessionName& name,
                                     bool may_replace = false,
                                     int64_t version = 3) {
    const auto replaced = store().BeginImport(name, may_replace);
    if (!replaced.ok()) return replaced.status();
    return Finish(name, *replaced, version);
  }
  absl::StatusOr<SessionInfo> ImportCheckpoint(const std::string& id,
                                               bool may_replace = false,
                                               int64_t version = 3) {
    const auto replaced =
        store().BeginCheckpointImport(NameOf(nullptr, id), may_replace);
    if (!replaced.ok()) return replaced.status();
    return store().ImportCheckpoint(nullptr, 0, {.id = id}, *replaced,
                                    TurnsAt(version), MakeBlock(kStateBytes));
  }
  // A turn on "s", which has begun.
  SessionHandle BeginTurn(const std::string& request_id = "r") {
    auto turn = store().BeginTurn(0, TestEngine::Turn("s", request_id, {1}, 1),
                                  nullptr);
    EXPECT_TRUE(turn.ok()) << turn.status();
    return std::get<SessionStore::Turn>(*turn).session;
  }
  void ExpectNothingTaken() {
    const SessionCounts counts = store().Counts();
    EXPECT_EQ(counts.ram_bytes, 0);
    EXPECT_EQ(counts.models[0].sessions_in_ram, 0);
    EXPECT_EQ(counts.models[0].checkpoints, 0);
  }

  const TenantHandle ann_ = std::make_shared<Tenant>("ann", 1);
};

TEST_F(SessionImportsTest, AreSessionsLikeOthers) {
  NewSession imported = {.name = NameOf(nullptr),
                         .time_to_live = absl::Hours(1),
                         .labels = {{"k", "v"}}};
  const auto made =
      store().Import(imported, {}, TurnsAt(3), MakeBlock(kStateBytes));
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->version, 3);
  EXPECT_EQ(made->position, 7);
  EXPECT_TRUE(made->pending_token);
  EXPECT_EQ(made->tier, "ram");
  EXPECT_EQ(made->labels->at("k"), "v");
  EXPECT_EQ(made->expire_time, clock_.Now() + absl::Hours(1));
  EXPECT_EQ(store().Counts().models[0].sessions_in_ram, 1);
  // And runs turns: the next one is expected at its version.
  Request turn = TestEngine::Turn("s", "r", {1}, 1);
  turn.expected_version = 3;
  EXPECT_TRUE(store().BeginTurn(0, turn, nullptr).ok());
}

TEST_F(SessionImportsTest, NeedANameThatIsFree) {
  ASSERT_TRUE(store().Create({.name = NameOf(nullptr)}).ok());
  ExpectCode(store().BeginImport(NameOf(nullptr), false).status(),
             Code::kAlreadyExists, "session \"s\" exists");
  // Another tenant's is none.
  EXPECT_TRUE(Import(NameOf(ann_)).ok());
  // One that was made meanwhile is not lost either.
  for (const bool may_replace : {false, true}) {
    const std::string id = absl::StrCat("late", may_replace);
    const auto replaced = store().BeginImport(NameOf(nullptr, id), may_replace);
    ASSERT_TRUE(replaced.ok()) << replaced.status();
    ASSERT_TRUE(store().Create({.name = NameOf(nullptr, id)}).ok());
    ExpectCode(Finish(NameOf(nullptr, id), *replaced).status(),
               Code::kAlreadyExists, "exists");
  }
}

TEST_F(SessionImportsTest, TakeThePlaceOfTheDeparted) {
  ASSERT_TRUE(Import(NameOf(nullptr)).ok());
  clock_.Advance(limits_.time_to_live + absl::Hours(1));
  ASSERT_TRUE(store().Sweep());
  ExpectCode(store().Get(NameOf(nullptr)).status(), Code::kNotFound, "is gone");
  EXPECT_TRUE(Import(NameOf(nullptr)).ok());
  EXPECT_TRUE(store().Get(NameOf(nullptr)).ok());
}

TEST_F(SessionImportsTest, ReplaceASessionIfToldTo) {
  ASSERT_TRUE(Import(NameOf(nullptr)).ok());
  const size_t before = store().Counts().ram_bytes;
  const auto replaced = Import(NameOf(nullptr), /*may_replace=*/true, 9);
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  EXPECT_EQ(replaced->version, 9);
  EXPECT_EQ(store().Get(NameOf(nullptr))->version, 9);
  EXPECT_EQ(store().Counts().ram_bytes, before);
  EXPECT_EQ(store().Counts().models[0].sessions_in_ram, 1);
  // Where there is none there is nothing to replace.
  EXPECT_TRUE(Import(NameOf(nullptr, "new"), /*may_replace=*/true).ok());
}

TEST_F(SessionImportsTest, GiveTheSlotOfWhatTheyReplaceBack) {
  const SessionHandle session = BeginTurn();
  ASSERT_TRUE(store().Commit(session, TurnsAt(1), /*slot=*/5, {}));
  ASSERT_TRUE(Import(NameOf(nullptr), /*may_replace=*/true).ok());
  EXPECT_THAT(store().ReleasedSlots(0), ::testing::ElementsAre(5));
  EXPECT_EQ(store().Locate(session).status().code(), Code::kNotFound);
}

TEST_F(SessionImportsTest, DoNotReplaceASessionThatRuns) {
  ASSERT_TRUE(Import(NameOf(nullptr)).ok());
  const auto replaced = store().BeginImport(NameOf(nullptr), true);
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  const SessionHandle running = BeginTurn();
  ExpectCode(store().BeginImport(NameOf(nullptr), true).status(),
             Code::kAborted, "session \"s\" has a running turn");
  ExpectCode(Finish(NameOf(nullptr), *replaced).status(), Code::kAborted,
             "has a running turn");
  // A turn that came to nothing has changed nothing.
  store().Abort(running);
  EXPECT_TRUE(Finish(NameOf(nullptr), *replaced).ok());
}

TEST_F(SessionImportsTest, DoNotReplaceATurnThatNobodyKnewOf) {
  ASSERT_TRUE(Import(NameOf(nullptr)).ok());
  const auto replaced = store().BeginImport(NameOf(nullptr), true);
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  ASSERT_TRUE(store().Commit(BeginTurn(), TurnsAt(4), /*slot=*/0, {}));
  ExpectCode(Finish(NameOf(nullptr), *replaced, 9).status(), Code::kAborted,
             "is at version 4 and was at 3");
  EXPECT_EQ(store().Get(NameOf(nullptr))->version, 4);
}

TEST_F(SessionImportsTest, DoNotReplaceWhatTookItsPlace) {
  ASSERT_TRUE(Import(NameOf(nullptr)).ok());
  const auto replaced = store().BeginImport(NameOf(nullptr), true);
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  ASSERT_TRUE(store().Delete(NameOf(nullptr)).ok());
  ExpectCode(Finish(NameOf(nullptr), *replaced).status(), Code::kAborted,
             "was deleted or evicted while its new state came");
  ASSERT_TRUE(Import(NameOf(nullptr)).ok());
  ExpectCode(Finish(NameOf(nullptr), *replaced).status(), Code::kAborted,
             "was replaced while its new state came");
}

TEST_F(SessionImportsTest, DoNotReplaceAnotherModelsSession) {
  ASSERT_TRUE(store().Create({.name = NameOf(nullptr), .model = 1}).ok());
  const auto replaced = store().BeginImport(NameOf(nullptr), true);
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  ExpectCode(Finish(NameOf(nullptr), *replaced).status(),
             Code::kInvalidArgument, "belongs to model \"other\", not \"m\"");
}

TEST_F(SessionImportsTest, NeedRoomBesideWhatIsReserved) {
  limits_.memory_bytes = 2 * kSessionBytes;
  ASSERT_TRUE(Import(NameOf(nullptr)).ok());
  const SessionHandle running = BeginTurn();
  // The idle one makes way for another.
  ASSERT_TRUE(Import(NameOf(nullptr, "idle")).ok());
  ASSERT_TRUE(Import(NameOf(nullptr, "other")).ok());
  EXPECT_EQ(store().Get(NameOf(nullptr, "idle")).status().code(),
            Code::kNotFound);
  // What it replaces gives it its room, however full all is.
  EXPECT_TRUE(Import(NameOf(nullptr, "other"), /*may_replace=*/true).ok());
  EXPECT_TRUE(store().Get(NameOf(nullptr)).ok());
  store().Abort(running);
}

TEST_F(SessionImportsTest, LeaveNothingWhereTheyAreRefused) {
  limits_.memory_bytes = kStateBytes;
  ExpectCode(Import(NameOf(nullptr)).status(), Code::kResourceExhausted,
             "has no room for an imported state of");
  ExpectCode(ImportCheckpoint("c").status(), Code::kResourceExhausted, "");
  ExpectNothingTaken();
}

TEST_F(SessionImportsTest, AreCountedForTheirTenant) {
  ann_->SetLimits({.sessions = 1, .session_bytes = int64_t{kSessionBytes}});
  ASSERT_TRUE(Import(NameOf(ann_)).ok());
  ExpectCode(Import(NameOf(ann_, "more")).status(), Code::kResourceExhausted,
             "limit 1 (sessions)");
  // One in the place of another is no more than that was.
  EXPECT_TRUE(Import(NameOf(ann_), /*may_replace=*/true).ok());
  ann_->SetLimits({.sessions = 2, .session_bytes = int64_t{kSessionBytes}});
  ExpectCode(Import(NameOf(ann_, "more")).status(), Code::kResourceExhausted,
             "(session_bytes)");
}

TEST_F(SessionImportsTest, AreCheckpointsToo) {
  const auto made = ImportCheckpoint("c");
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->session_id, "c");
  EXPECT_EQ(made->version, 3);
  EXPECT_TRUE(store().UseCheckpoint(NameOf(nullptr, "c"), 0).ok());
  ExpectCode(ImportCheckpoint("c").status(), Code::kAlreadyExists,
             "checkpoint \"c\" exists");
  EXPECT_EQ(store().Counts().models[0].checkpoints, 1);
}

TEST_F(SessionImportsTest, ReplaceACheckpointAndLeaveWhatStartedFromIt) {
  ASSERT_TRUE(ImportCheckpoint("c").ok());
  NewSession from = {.name = NameOf(nullptr)};
  from.from_checkpoint = "c";
  ASSERT_TRUE(store().Create(from).ok());
  const auto replaced = ImportCheckpoint("c", /*may_replace=*/true, 9);
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  EXPECT_EQ(replaced->version, 9);
  EXPECT_EQ(store().Counts().models[0].checkpoints, 1);
  EXPECT_EQ(store().Counts().models[0].checkpoint_state_bytes, kStateBytes);
  EXPECT_EQ(store().Get(NameOf(nullptr))->version, 3);
  ASSERT_TRUE(store().DeleteCheckpoint(NameOf(nullptr, "c")).ok());
  ASSERT_TRUE(store().Delete(NameOf(nullptr)).ok());
  ExpectNothingTaken();
}

TEST_F(SessionImportsTest, DoNotReplaceACheckpointThatTookItsPlace) {
  ASSERT_TRUE(ImportCheckpoint("c").ok());
  const auto replaced =
      store().BeginCheckpointImport(NameOf(nullptr, "c"), true);
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  ASSERT_TRUE(ImportCheckpoint("c", /*may_replace=*/true).ok());
  ExpectCode(store()
                 .ImportCheckpoint(nullptr, 0, {.id = "c"}, *replaced,
                                   TurnsAt(1), MakeBlock(kStateBytes))
                 .status(),
             Code::kAborted, "checkpoint \"c\" was replaced");
}

}  // namespace
}  // namespace engram
