// What tenants know of each other's sessions: nothing.
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/session_store.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Code = absl::StatusCode;

constexpr size_t kStateBytes = 10000;

class SessionTenantsTest : public ::testing::Test {
 protected:
  SessionStore& store() {
    if (store_ == nullptr) {
      store_ = std::make_unique<SessionStore>(limits_, &clock_);
      store_->AddModel("m", {.state_bytes = kStateBytes});
      store_->AddModel("other", {.state_bytes = kStateBytes});
    }
    return *store_;
  }

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
  FakeClock clock_;
  SessionLimits limits_;
  std::unique_ptr<SessionStore> store_;
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

}  // namespace
}  // namespace engram
