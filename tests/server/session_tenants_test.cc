// What tenants know of each other's sessions, which is nothing, and what they
// may have of memory and places.
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/session_store.h"
#include "tests/server/store_test.h"
#include "tests/server/test_engine.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Code = absl::StatusCode;

class SessionTenantsTest : public StoreTest {
 protected:
  static Request Turn(const TenantHandle& tenant, const std::string& id,
                      const std::string& request_id) {
    Request request = TestEngine::Turn(id, request_id, {1}, 1);
    request.tenant = tenant;
    return request;
  }
  // One whole turn, whose state moves to RAM.
  void RunTurn(const TenantHandle& tenant, const std::string& id,
               const std::string& request_id = "r") {
    CommitTurn(&store(), Turn(tenant, id, request_id), /*slot=*/0);
    const auto resident = store().EvictionCandidate(0);
    ASSERT_TRUE(resident.has_value());
    store().MoveToRam(resident->session, resident->slot,
                      MakeBlock(kStateBytes));
    store().ReleasedSlots(0);
    clock_.Advance(absl::Seconds(1));
  }
  // Turns whose states stay in slots of their own.
  void RunInSlots(const TenantHandle& tenant,
                  const std::vector<std::string>& ids) {
    for (const std::string& id : ids) {
      CommitTurn(&store(), Turn(tenant, id, "r"), next_slot_++);
    }
  }
  absl::StatusOr<SessionInfo> Create(const TenantHandle& tenant,
                                     const std::string& id, int model = 0) {
    return store().Create({.name = SessionName(tenant, id), .model = model});
  }
  std::vector<std::string> Ids(const TenantHandle& tenant, int model = -1,
                               const std::string& after = "",
                               int count = 1000) {
    std::vector<std::string> ids;
    for (const SessionInfo& one : store().List(tenant, model, after, count)) {
      ids.push_back(one.session_id);
    }
    return ids;
  }

  const TenantHandle ann_ = std::make_shared<Tenant>("ann", 1);
  const TenantHandle bob_ = std::make_shared<Tenant>("bob", 2);
  int next_slot_ = 0;
};

TEST_F(SessionTenantsTest, UseOneIdForSessionsOfTheirOwn) {
  ASSERT_TRUE(Create(ann_, "a", /*model=*/0).ok());
  ASSERT_TRUE(Create(bob_, "a", /*model=*/1).ok());
  EXPECT_EQ(Create(bob_, "a").status().code(), Code::kAlreadyExists);
  EXPECT_EQ(store().Get({ann_, "a"})->model, "m");
  EXPECT_EQ(store().Get({bob_, "a"})->model, "other");
  EXPECT_EQ(*store().ModelOf({ann_, "a"}), 0);
  EXPECT_EQ(*store().ModelOf({bob_, "a"}), 1);
  ASSERT_TRUE(store().Delete({ann_, "a"}).ok());
  EXPECT_FALSE(store().Get({ann_, "a"}).ok());
  EXPECT_TRUE(store().Get({bob_, "a"}).ok());
}

TEST_F(SessionTenantsTest, AreToldOfOthersSessionsWhatTheyAreOfNone) {
  RunTurn(ann_, "a");
  const std::string none = "there is no session \"a\"";
  for (const TenantHandle& other : {bob_, TenantHandle()}) {
    const SessionName name(other, "a");
    EXPECT_EQ(store().Get(name).status(), absl::NotFoundError(none));
    EXPECT_EQ(store().Find(name).status(), absl::NotFoundError(none));
    EXPECT_EQ(store().FindOfModel(name, 1).status(), absl::NotFoundError(none));
    EXPECT_EQ(store().ModelOf(name).status(), absl::NotFoundError(none));
    EXPECT_EQ(store().Delete(name), absl::NotFoundError(none));
    EXPECT_EQ(store().DeviceOf(name), std::nullopt);
  }
}

TEST_F(SessionTenantsTest, ListTheirOwnAlone) {
  for (const char* id : {"a", "c", "e"}) ASSERT_TRUE(Create(ann_, id).ok());
  for (const char* id : {"b", "c", "d"}) ASSERT_TRUE(Create(bob_, id, 1).ok());
  EXPECT_THAT(Ids(ann_), ElementsAre("a", "c", "e"));
  EXPECT_THAT(Ids(ann_, -1, "a", 1), ElementsAre("c"));
  EXPECT_THAT(Ids(ann_, -1, "b"), ElementsAre("c", "e"));
  EXPECT_THAT(Ids(bob_, 1, "b"), ElementsAre("c", "d"));
  EXPECT_THAT(Ids(bob_, 0), ElementsAre());
  EXPECT_THAT(Ids(nullptr), ElementsAre());
}

// The same id on a session of the same name is another request.
TEST_F(SessionTenantsTest, RepeatTheirOwnRequestsAlone) {
  RunTurn(ann_, "a", "r");
  const auto of_bob = store().BeginTurn(0, Turn(bob_, "a", "r"), nullptr);
  ASSERT_TRUE(of_bob.ok()) << of_bob.status();
  const auto* turn = std::get_if<SessionStore::Turn>(&*of_bob);
  ASSERT_NE(turn, nullptr);
  EXPECT_EQ(turn->start.version, 0);
  const auto of_ann = store().BeginTurn(0, Turn(ann_, "a", "r"), nullptr);
  ASSERT_TRUE(of_ann.ok()) << of_ann.status();
  EXPECT_NE(std::get<1>(*of_ann), nullptr);
}

TEST_F(SessionTenantsTest, RunTurnsOnOneIdAtOnce) {
  ASSERT_TRUE(store().BeginTurn(0, Turn(ann_, "a", "r"), nullptr).ok());
  ASSERT_TRUE(store().BeginTurn(0, Turn(bob_, "a", "q"), nullptr).ok());
  EXPECT_EQ(store().BeginTurn(0, Turn(bob_, "a", "p"), nullptr).status().code(),
            Code::kAborted);
}

TEST_F(SessionTenantsTest, AreToldOfTheirOwnLossesAlone) {
  RunTurn(ann_, "a");
  clock_.Advance(limits_.time_to_live);
  ASSERT_TRUE(store().Sweep());
  EXPECT_THAT(std::string(store().Get({ann_, "a"}).status().message()),
              HasSubstr("is gone, expired"));
  EXPECT_EQ(store().Get({bob_, "a"}).status(),
            absl::NotFoundError("there is no session \"a\""));
  // Nor does a session of the other's end the word of this one's.
  EXPECT_FALSE(store().Delete({bob_, "a"}).ok());
  ASSERT_TRUE(Create(bob_, "a").ok());
  EXPECT_TRUE(store().Delete({ann_, "a"}).ok());
}

TEST_F(SessionTenantsTest, KeepForksWithinTheTenant) {
  RunTurn(ann_, "a");
  const SessionHandle source = *store().Find({ann_, "a"});
  const SessionStore::Location location = *store().Locate(source);
  ASSERT_TRUE(Create(bob_, "b").ok());
  ASSERT_TRUE(
      store().InstallFork(source, "b", location.turns, location.block).ok());
  EXPECT_EQ(store().Get({ann_, "b"})->version, 1);
  EXPECT_EQ(store().Get({bob_, "b"})->version, 0);
}

// An id that was made for one says nothing of the other's.
TEST_F(SessionTenantsTest, HaveRequestIdsMadeForEachAlone) {
  limits_.remembered_turns = 1;
  for (const char* id : {"r1", "r2"}) {
    RunTurn(ann_, "a", id);
    RunTurn(bob_, "a", id);
  }
  const std::string made = store().MakeRequestId({ann_, "a"});
  EXPECT_EQ(
      store().BeginTurn(0, Turn(bob_, "a", made), nullptr).status().code(),
      Code::kFailedPrecondition);
  EXPECT_TRUE(store().BeginTurn(0, Turn(ann_, "a", made), nullptr).ok());
}

// --- Shares of memory and of places.

TEST_F(SessionTenantsTest, LoseSessionsOfWhoeverIsOverItsShareFirst) {
  limits_.memory_bytes = 8 * (kStateBytes + 2048);
  RunTurn(bob_, "oldest");
  for (int i = 0; i < 20; ++i) RunTurn(ann_, absl::StrCat("a", i));
  EXPECT_TRUE(store().Get({bob_, "oldest"}).ok());
  EXPECT_FALSE(store().Get({ann_, "a0"}).ok());
  EXPECT_TRUE(store().Get({ann_, "a19"}).ok());
  // What nobody else wanted of bob's share comes back to him.
  for (int i = 0; i < 3; ++i) RunTurn(bob_, absl::StrCat("b", i));
  EXPECT_THAT(Ids(bob_), ElementsAre("b0", "b1", "b2", "oldest"));
  EXPECT_LE(store().Counts().ram_bytes, limits_.memory_bytes);
  // Beyond it he makes room for himself.
  const std::vector<std::string> of_ann = Ids(ann_);
  for (int i = 3; i < 9; ++i) RunTurn(bob_, absl::StrCat("b", i));
  EXPECT_GE(Ids(ann_).size() + 1, of_ann.size());
  EXPECT_FALSE(store().Get({bob_, "oldest"}).ok());
}

TEST_F(SessionTenantsTest, HaveSharesByWeight) {
  limits_.memory_bytes = 12 * (kStateBytes + 2048);
  TenantLimits heavy;
  heavy.weight = 3;
  ann_->SetLimits(heavy);
  for (int i = 0; i < 30; ++i) {
    RunTurn(ann_, absl::StrCat("a", i));
    RunTurn(bob_, absl::StrCat("b", i));
  }
  const double ratio = double(Ids(ann_).size()) / double(Ids(bob_).size());
  EXPECT_GT(ratio, 2.4) << Ids(ann_).size() << " and " << Ids(bob_).size();
  EXPECT_LT(ratio, 3.7) << Ids(ann_).size() << " and " << Ids(bob_).size();
}

// However many turns one has begun, others can begin theirs.
TEST_F(SessionTenantsTest, ReserveNoMemoryThatOthersSessionsMayNeed) {
  limits_.memory_bytes = 4 * (kStateBytes + 2048);
  RunInSlots(ann_, {"a", "b", "c", "d"});
  RunInSlots(bob_, {"a", "b"});
  for (const char* id : {"a", "b"}) {
    EXPECT_TRUE(store().BeginTurn(0, Turn(ann_, id, "s"), nullptr).ok()) << id;
  }
  EXPECT_EQ(store().BeginTurn(0, Turn(ann_, "c", "s"), nullptr).status().code(),
            Code::kResourceExhausted);
  for (const char* id : {"a", "b"}) {
    EXPECT_TRUE(store().BeginTurn(0, Turn(bob_, id, "s"), nullptr).ok()) << id;
  }
}

TEST_F(SessionTenantsTest, ReserveByTheirWeightsAsTheyAre) {
  limits_.memory_bytes = 4 * (kStateBytes + 2048);
  RunInSlots(ann_, {"a", "b", "c", "d"});
  RunInSlots(bob_, {"a", "b"});
  bob_->SetLimits({.weight = 0.3});
  for (const char* id : {"a", "b", "c"}) {
    EXPECT_TRUE(store().BeginTurn(0, Turn(ann_, id, "s"), nullptr).ok()) << id;
  }
  EXPECT_EQ(store().BeginTurn(0, Turn(ann_, "d", "s"), nullptr).status().code(),
            Code::kResourceExhausted);
}

// What others leave of theirs is nobody's loss.
TEST_F(SessionTenantsTest, ReserveAllThatOthersDoNotNeed) {
  limits_.memory_bytes = 4 * (kStateBytes + 2048);
  RunInSlots(ann_, {"a", "b", "c", "d"});
  ASSERT_TRUE(Create(bob_, "empty").ok());
  for (const char* id : {"a", "b", "c", "d"}) {
    EXPECT_TRUE(store().BeginTurn(0, Turn(ann_, id, "s"), nullptr).ok()) << id;
  }
}

TEST_F(SessionTenantsTest, GiveBackPlacesIfTheyHaveTheMost) {
  limits_.sessions = 4;
  ASSERT_TRUE(Create(bob_, "b").ok());
  for (int i = 0; i < 9; ++i) {
    ASSERT_TRUE(Create(ann_, absl::StrCat("a", i)).ok());
  }
  EXPECT_THAT(Ids(ann_), ElementsAre("a6", "a7", "a8"));
  ASSERT_TRUE(Create(bob_, "c").ok());
  EXPECT_THAT(Ids(ann_), ElementsAre("a7", "a8"));
  // Who asks for more than its share takes it from itself.
  ASSERT_TRUE(Create(ann_, "a9").ok());
  EXPECT_THAT(Ids(ann_), ElementsAre("a8", "a9"));
  ASSERT_TRUE(Create(bob_, "d").ok());
  EXPECT_THAT(Ids(bob_), ElementsAre("c", "d"));
}

TEST_F(SessionTenantsTest, ForgetTheDepartedOfWhoHasTheMost) {
  limits_.departed = 3;
  limits_.time_to_live = absl::Seconds(10);
  RunTurn(bob_, "b");
  for (int i = 0; i < 9; ++i) RunTurn(ann_, absl::StrCat("a", i));
  clock_.Advance(limits_.time_to_live);
  ASSERT_TRUE(store().Sweep());
  EXPECT_THAT(std::string(store().Get({bob_, "b"}).status().message()),
              HasSubstr("is gone"));
  EXPECT_THAT(std::string(store().Get({ann_, "a6"}).status().message()),
              HasSubstr("there is no"));
  EXPECT_THAT(std::string(store().Get({ann_, "a8"}).status().message()),
              HasSubstr("is gone"));
}

// --- Limits.

void ExpectRefused(const absl::Status& status, const std::string& part,
                   absl::Duration wait = absl::Seconds(30)) {
  EXPECT_EQ(status.code(), Code::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  EXPECT_EQ(RetryAfter(status), wait);
}

TEST_F(SessionTenantsTest, HaveNoMoreSessionsThanTheyMay) {
  TenantLimits limits;
  limits.sessions = 2;
  ann_->SetLimits(limits);
  RunTurn(ann_, "a");
  ASSERT_TRUE(Create(ann_, "b").ok());
  const std::string why = "tenant \"ann\" has 2 sessions, limit 2 (sessions)";
  ExpectRefused(Create(ann_, "c").status(), why);
  ExpectRefused(store().BeginTurn(0, Turn(ann_, "c", "r"), nullptr).status(),
                why);
  const SessionHandle source = *store().Find({ann_, "a"});
  ExpectRefused(store().InstallFork(source, "c", {}, nullptr).status(), why);
  // What it has goes on, and the other's are not counted.
  EXPECT_TRUE(store().BeginTurn(0, Turn(ann_, "a", "r2"), nullptr).ok());
  for (const char* id : {"a", "b", "c"}) EXPECT_TRUE(Create(bob_, id).ok());
  ASSERT_TRUE(store().Delete({ann_, "b"}).ok());
  EXPECT_TRUE(Create(ann_, "c").ok());
}

TEST_F(SessionTenantsTest, AreToldWhenASessionExpires) {
  TenantLimits limits;
  limits.sessions = 1;
  ann_->SetLimits(limits);
  limits_.time_to_live = absl::Seconds(10);
  ASSERT_TRUE(Create(ann_, "a").ok());
  clock_.Advance(absl::Seconds(3));
  ExpectRefused(Create(ann_, "b").status(), "1 sessions", absl::Seconds(7));
}

TEST_F(SessionTenantsTest, HaveNoMoreBytesThanTheyMayWhereverStatesLie) {
  TenantLimits limits;
  limits.session_bytes = 2 * (kStateBytes + 2048);
  ann_->SetLimits(limits);
  // The first lies in a slot, the second is still to come.
  CommitTurn(&store(), Turn(ann_, "a", "r"), /*slot=*/0);
  const auto second = store().BeginTurn(0, Turn(ann_, "b", "r"), nullptr);
  ASSERT_TRUE(second.ok()) << second.status();
  ExpectRefused(
      store().BeginTurn(0, Turn(ann_, "c", "r"), nullptr).status(),
      absl::StrCat("limit ", *limits.session_bytes, " (session_bytes)"));
  // A turn that adds nothing may run.
  EXPECT_TRUE(store().BeginTurn(0, Turn(ann_, "a", "r2"), nullptr).ok());
  store().Abort(std::get<SessionStore::Turn>(*second).session);
  EXPECT_TRUE(store().BeginTurn(0, Turn(ann_, "c", "r"), nullptr).ok());
}

TEST_F(SessionTenantsTest, KeepWhatTheyHaveWhenALimitIsLowered) {
  RunTurn(ann_, "a");
  RunTurn(ann_, "b");
  TenantLimits limits;
  limits.sessions = 1;
  limits.session_bytes = 1;
  ann_->SetLimits(limits);
  for (const char* id : {"a", "b"}) {
    EXPECT_TRUE(store().BeginTurn(0, Turn(ann_, id, "r2"), nullptr).ok()) << id;
  }
}

TEST_F(SessionTenantsTest, AreCountedEachForItself) {
  RunTurn(ann_, "a");
  CommitTurn(&store(), Turn(bob_, "b", "r"), /*slot=*/0);
  ASSERT_TRUE(Create(bob_, "c").ok());
  const std::vector<TenantUse> uses = store().UsesOfTenants();
  ASSERT_EQ(uses.size(), 2);
  EXPECT_EQ(uses[0].tenant, ann_);
  EXPECT_EQ(uses[0].sessions, 1);
  EXPECT_GT(uses[0].bytes, kStateBytes);
  EXPECT_LT(uses[0].bytes, kStateBytes + 2048);
  EXPECT_EQ(uses[1].tenant, bob_);
  EXPECT_EQ(uses[1].sessions, 2);
  EXPECT_GT(uses[1].bytes, kStateBytes);
  EXPECT_LT(uses[1].bytes, kStateBytes + 2 * 2048);
  ASSERT_TRUE(store().Delete({ann_, "a"}).ok());
  EXPECT_EQ(store().UsesOfTenants()[0].sessions, 0);
  EXPECT_EQ(store().UsesOfTenants()[0].bytes, 0);
}

// Forks hold one state together; one that goes on needs another.
TEST_F(SessionTenantsTest, HoldStatesThatForksShareOnce) {
  RunTurn(ann_, "a");
  const SessionHandle source = *store().Find({ann_, "a"});
  const SessionStore::Location location = *store().Locate(source);
  TenantLimits limits;
  limits.session_bytes = kStateBytes + 3 * 2048;
  ann_->SetLimits(limits);
  ASSERT_TRUE(
      store().InstallFork(source, "b", location.turns, location.block).ok());
  ExpectRefused(store().BeginTurn(0, Turn(ann_, "b", "r2"), nullptr).status(),
                "(session_bytes)");
  ASSERT_TRUE(store().Delete({ann_, "a"}).ok());
  EXPECT_TRUE(store().BeginTurn(0, Turn(ann_, "b", "r2"), nullptr).ok());
}

}  // namespace
}  // namespace engram
