#include "server/session_checkpoints.h"

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/store_test.h"
#include "tests/server/test_engine.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Code = absl::StatusCode;

// What a checkpoint or a session takes at most, its own fields included.
constexpr size_t kCheckpointBytes = kStateBytes + 2048;

// A store without an engine, whose checkpoints are of sessions at version 3.
class SessionCheckpointsTest : public StoreTest {
 protected:
  static CommittedTurns ThreeTurns() {
    CommittedTurns turns;
    turns.version = 3;
    turns.position = 7;
    turns.pending = 1;
    return turns;
  }

  // A session to make checkpoints of; it keeps nothing itself.
  SessionHandle Source(const TenantHandle& tenant, int model = 0) {
    const SessionName name(tenant, absl::StrCat("source", model));
    if (!store().Get(name).ok()) {
      EXPECT_TRUE(store().Create({.name = name, .model = model}).ok());
    }
    return *store().Find(name);
  }
  absl::StatusOr<SessionInfo> Make(
      const TenantHandle& tenant, const std::string& id,
      std::shared_ptr<const StateBlock> block = MakeBlock(kStateBytes),
      int model = 0) {
    return store().InstallCheckpoint(Source(tenant, model), {.id = id},
                                     ThreeTurns(), std::move(block));
  }
  std::vector<std::string> Ids(const TenantHandle& tenant, int model = -1,
                               const std::string& after = "",
                               int count = 1000) {
    std::vector<std::string> ids;
    for (const SessionInfo& one :
         store().ListCheckpoints(tenant, model, after, count)) {
      ids.push_back(one.session_id);
    }
    return ids;
  }

  // A turn on the session that starts from the checkpoint.
  static Request TurnFrom(const std::string& checkpoint, const std::string& id,
                          const std::string& request_id = "r") {
    Request request = TestEngine::Turn(id, request_id, {1}, 1);
    request.from_checkpoint = checkpoint;
    request.identity = IdentityOf(request);
    return request;
  }
  absl::StatusOr<SessionStore::TurnOrRecord> Begin(const Request& request,
                                                   int model = 0) {
    return store().BeginTurn(model, request, nullptr);
  }
  Code CodeOfBegin(const Request& request, int model = 0) {
    return Begin(request, model).status().code();
  }

  const TenantHandle ann_ = std::make_shared<Tenant>("ann", 1);
  const TenantHandle bob_ = std::make_shared<Tenant>("bob", 2);
};

TEST_F(SessionCheckpointsTest, TellWhatTheyHold) {
  const absl::StatusOr<SessionInfo> made = store().InstallCheckpoint(
      Source(nullptr), {.id = "c", .labels = {{"k", "v"}}}, ThreeTurns(),
      MakeBlock(kStateBytes));
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->session_id, "c");
  EXPECT_EQ(made->model, "m");
  EXPECT_EQ(made->version, 3);
  EXPECT_EQ(made->position, 7);
  EXPECT_TRUE(made->pending_token);
  EXPECT_EQ(made->state_bytes, kStateBytes);
  EXPECT_EQ(made->create_time, clock_.Now());
  EXPECT_EQ(made->labels->at("k"), "v");
  EXPECT_EQ(store().Counts().models[0].checkpoints, 1);
  EXPECT_EQ(store().Counts().models[0].checkpoint_state_bytes, kStateBytes);
  EXPECT_EQ(store().Counts().models[0].sessions_in_ram, 0);
}

TEST_F(SessionCheckpointsTest, NeverChange) {
  ASSERT_TRUE(Make(nullptr, "c").ok());
  ExpectCode(Make(nullptr, "c").status(), Code::kAlreadyExists,
             "checkpoint \"c\" exists");
}

TEST_F(SessionCheckpointsTest, NeedAState) {
  ExpectCode(Make(nullptr, "c", nullptr).status(), Code::kFailedPrecondition,
             "has read nothing yet");
}

TEST_F(SessionCheckpointsTest, AreNoSessions) {
  ASSERT_TRUE(Make(nullptr, "c").ok());
  EXPECT_EQ(store().Get({nullptr, "c"}).status().code(), Code::kNotFound);
  EXPECT_EQ(store().Delete({nullptr, "c"}).code(), Code::kNotFound);
  EXPECT_EQ(store().List(nullptr, -1, "", 10).size(), 1);  // their source
  // Nor do they expire.
  clock_.Advance(limits_.time_to_live + absl::Hours(1));
  ASSERT_TRUE(store().Sweep());
  EXPECT_THAT(store().List(nullptr, -1, "", 10), IsEmpty());
  EXPECT_THAT(Ids(nullptr), ElementsAre("c"));
}

TEST_F(SessionCheckpointsTest, AreListedInPagesInOrderOfId) {
  for (const char* id : {"d", "a", "b"}) ASSERT_TRUE(Make(ann_, id).ok());
  ASSERT_TRUE(Make(ann_, "c", MakeBlock(kStateBytes), /*model=*/1).ok());
  ASSERT_TRUE(Make(bob_, "e").ok());
  EXPECT_THAT(Ids(ann_), ElementsAre("a", "b", "c", "d"));
  EXPECT_THAT(Ids(ann_, 0), ElementsAre("a", "b", "d"));
  EXPECT_THAT(Ids(ann_, -1, "a", 2), ElementsAre("b", "c"));
  EXPECT_THAT(Ids(ann_, 0, "d"), IsEmpty());
  EXPECT_THAT(Ids(nullptr), IsEmpty());
}

TEST_F(SessionCheckpointsTest, AreListedOnceInHoweverManyParts) {
  const auto block = MakeBlock(kStateBytes);
  for (int i = 0; i < 500; ++i) {
    ASSERT_TRUE(Make(nullptr, absl::StrCat("c", 1000 + i), block, i % 2).ok());
  }
  EXPECT_EQ(Ids(nullptr).size(), 500);
  EXPECT_EQ(Ids(nullptr, 1).size(), 250);
}

TEST_F(SessionCheckpointsTest, AreTheirTenantsAlone) {
  ASSERT_TRUE(Make(ann_, "c").ok());
  const std::string none = "there is no checkpoint \"c\"";
  for (const TenantHandle& other : {bob_, TenantHandle()}) {
    const SessionName name(other, "c");
    EXPECT_EQ(store().UseCheckpoint(name, 0).status(),
              absl::NotFoundError(none));
    EXPECT_EQ(store().UseCheckpoint(name, 1).status(),
              absl::NotFoundError(none));
    EXPECT_EQ(store().ModelOfCheckpoint(name).status(),
              absl::NotFoundError(none));
    EXPECT_EQ(store().DeleteCheckpoint(name), absl::NotFoundError(none));
    Request turn = TurnFrom("c", "a");
    turn.tenant = other;
    EXPECT_EQ(Begin(turn).status(), absl::NotFoundError(none));
    EXPECT_EQ(store()
                  .Create({.name = {other, "new"}, .from_checkpoint = "c"})
                  .status(),
              absl::NotFoundError(none));
  }
  // Nor is a name taken by another's.
  ASSERT_TRUE(Make(bob_, "c", MakeBlock(kStateBytes), /*model=*/1).ok());
  EXPECT_EQ(*store().ModelOfCheckpoint({ann_, "c"}), 0);
  EXPECT_EQ(*store().ModelOfCheckpoint({bob_, "c"}), 1);
  ASSERT_TRUE(store().DeleteCheckpoint({ann_, "c"}).ok());
  EXPECT_THAT(Ids(ann_), IsEmpty());
  EXPECT_THAT(Ids(bob_), ElementsAre("c"));
}

// --- What starts from them.

TEST_F(SessionCheckpointsTest, BeginNewSessionsAtTheirVersion) {
  const auto block = MakeBlock(kStateBytes);
  ASSERT_TRUE(Make(nullptr, "c", block).ok());
  const auto begun = Begin(TurnFrom("c", "a"));
  ASSERT_TRUE(begun.ok()) << begun.status();
  const auto& turn = std::get<SessionStore::Turn>(*begun);
  EXPECT_EQ(turn.start.version, 3);
  EXPECT_EQ(turn.start.position, 7);
  EXPECT_EQ(turn.start.pending, 1);
  EXPECT_EQ(store().Locate(turn.session)->block, block);
  // Back to nothing.
  store().Abort(turn.session);
  EXPECT_EQ(store().Get({nullptr, "a"}).status().code(), Code::kNotFound);
}

TEST_F(SessionCheckpointsTest, AreGoneOnFromLikeSessionsThatWereCreated) {
  const auto block = MakeBlock(kStateBytes);
  ASSERT_TRUE(Make(nullptr, "c", block).ok());
  const absl::StatusOr<SessionInfo> created = store().Create(
      {.name = {nullptr, "a"}, .labels = {{"k", "v"}}, .from_checkpoint = "c"});
  ASSERT_TRUE(created.ok()) << created.status();
  EXPECT_EQ(created->version, 3);
  EXPECT_EQ(created->position, 7);
  EXPECT_EQ(created->tier, "ram");
  EXPECT_EQ(created->labels->at("k"), "v");
  Request turn = TestEngine::Turn("a", "r", {1}, 1);
  turn.expected_version = 3;
  CommitTurn(&store(), turn, /*slot=*/0);
  EXPECT_EQ(store().Get({nullptr, "a"})->version, 4);
  // The checkpoint is what it was.
  EXPECT_EQ(store().Locate(*store().UseCheckpoint({nullptr, "c"}, 0))->block,
            block);
}

TEST_F(SessionCheckpointsTest, GiveForksNoLabelsOfTheirOwn) {
  ASSERT_TRUE(store()
                  .InstallCheckpoint(Source(nullptr),
                                     {.id = "c", .labels = {{"k", "v"}}},
                                     ThreeTurns(), MakeBlock(kStateBytes))
                  .ok());
  const SessionHandle checkpoint = *store().UseCheckpoint({nullptr, "c"}, 0);
  const SessionStore::Location location = *store().Locate(checkpoint);
  const absl::StatusOr<SessionInfo> fork =
      store().InstallFork(checkpoint, "a", location.turns, location.block);
  ASSERT_TRUE(fork.ok()) << fork.status();
  EXPECT_EQ(fork->version, 3);
  EXPECT_THAT(*fork->labels, IsEmpty());
  EXPECT_EQ(fork->expire_time, clock_.Now() + limits_.time_to_live);
}

TEST_F(SessionCheckpointsTest, BeginNoSessionThatExists) {
  ASSERT_TRUE(Make(nullptr, "c").ok());
  ASSERT_TRUE(store().Create({.name = {nullptr, "a"}}).ok());
  ExpectCode(Begin(TurnFrom("c", "a")).status(), Code::kFailedPrecondition,
             "session \"a\" exists, at version 0; only a new one can start");
  // A turn that runs is told of before.
  ASSERT_TRUE(Begin(TurnFrom("c", "b")).ok());
  EXPECT_EQ(CodeOfBegin(TurnFrom("c", "b", "r2")), Code::kAborted);
}

TEST_F(SessionCheckpointsTest, BeginWhatIsExpectedToBeNew) {
  ASSERT_TRUE(Make(nullptr, "c").ok());
  Request request = TurnFrom("c", "a");
  request.expected_version = 3;
  EXPECT_EQ(CodeOfBegin(request), Code::kFailedPrecondition);
  request.expected_version = 0;
  EXPECT_EQ(CodeOfBegin(request), Code::kOk);
}

TEST_F(SessionCheckpointsTest, AreNotAskedAgainForATurnThatHasCommitted) {
  ASSERT_TRUE(Make(nullptr, "c").ok());
  const Request request = TurnFrom("c", "a");
  CommitTurn(&store(), request, /*slot=*/0);
  ASSERT_TRUE(store().DeleteCheckpoint({nullptr, "c"}).ok());
  const auto repeat = Begin(request);
  ASSERT_TRUE(repeat.ok()) << repeat.status();
  EXPECT_TRUE(
      std::holds_alternative<std::shared_ptr<const TurnRecord>>(*repeat));
  // Without the checkpoint it is another request.
  Request other = request;
  other.from_checkpoint = "";
  other.identity = IdentityOf(other);
  EXPECT_EQ(CodeOfBegin(other), Code::kInvalidArgument);
}

TEST_F(SessionCheckpointsTest, AreOfOneModel) {
  ASSERT_TRUE(Make(nullptr, "c").ok());
  for (const absl::Status& status :
       {Begin(TurnFrom("c", "a"), /*model=*/1).status(),
        store().UseCheckpoint({nullptr, "c"}, 1).status(),
        store()
            .Create(
                {.name = {nullptr, "a"}, .model = 1, .from_checkpoint = "c"})
            .status()}) {
    ExpectCode(status, Code::kInvalidArgument,
               "checkpoint \"c\" belongs to model \"m\", not \"other\"");
  }
}

TEST_F(SessionCheckpointsTest, GoWithoutWhatHasStartedFromThem) {
  const auto block = MakeBlock(kStateBytes);
  ASSERT_TRUE(Make(nullptr, "c", block).ok());
  ASSERT_TRUE(
      store().Create({.name = {nullptr, "a"}, .from_checkpoint = "c"}).ok());
  const SessionHandle held = *store().UseCheckpoint({nullptr, "c"}, 0);
  ASSERT_TRUE(store().DeleteCheckpoint({nullptr, "c"}).ok());
  EXPECT_EQ(store().Locate(*store().Find({nullptr, "a"}))->block, block);
  ExpectCode(store().Locate(held).status(), Code::kNotFound,
             "checkpoint \"c\" was deleted");
  ExpectCode(store().DeleteCheckpoint({nullptr, "c"}), Code::kNotFound,
             "there is no checkpoint \"c\"");
  EXPECT_EQ(store().Counts().models[0].checkpoints, 0);
  EXPECT_EQ(store().Counts().models[0].checkpoint_state_bytes, 0);
}

TEST_F(SessionCheckpointsTest, TellWhenSomethingStartedFromThemLast) {
  const absl::StatusOr<SessionInfo> made = Make(nullptr, "c");
  clock_.Advance(absl::Minutes(1));
  ASSERT_TRUE(
      store().Create({.name = {nullptr, "a"}, .from_checkpoint = "c"}).ok());
  const SessionInfo listed = store().ListCheckpoints(nullptr, -1, "", 1)[0];
  EXPECT_EQ(listed.create_time, made->create_time);
  EXPECT_EQ(listed.last_used_time, clock_.Now());
}

// --- What they cost.

TEST_F(SessionCheckpointsTest, CostOneStateHoweverManySessionsStartFromThem) {
  ASSERT_TRUE(Make(nullptr, "c").ok());
  const size_t before = store().Counts().ram_bytes;
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(store()
                    .Create({.name = {nullptr, absl::StrCat("s", i)},
                             .from_checkpoint = "c"})
                    .ok());
  }
  EXPECT_EQ(store().Counts().models[0].state_bytes_in_ram, kStateBytes);
  EXPECT_LT(store().Counts().ram_bytes, before + 100 * 1500);
  // The last one to hold it frees it.
  ASSERT_TRUE(store().DeleteCheckpoint({nullptr, "c"}).ok());
  EXPECT_EQ(store().Counts().models[0].state_bytes_in_ram, kStateBytes);
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(store().Delete({nullptr, absl::StrCat("s", i)}).ok());
  }
  EXPECT_EQ(store().Counts().models[0].state_bytes_in_ram, 0);
}

TEST_F(SessionCheckpointsTest, TakeHalfOfTheSessionMemoryAtMost) {
  limits_.memory_bytes = 8 * kCheckpointBytes;
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(Make(nullptr, absl::StrCat("c", i)).ok());
  }
  ExpectCode(Make(nullptr, "more").status(), Code::kResourceExhausted,
             "which is part of --session-memory; delete some");
  ASSERT_TRUE(store().DeleteCheckpoint({nullptr, "c0"}).ok());
  EXPECT_TRUE(Make(nullptr, "more").ok());
  // Nothing stays taken of those that were deleted.
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(store().DeleteCheckpoint({nullptr, "more"}).ok());
    ASSERT_TRUE(Make(nullptr, "more").ok());
  }
}

TEST_F(SessionCheckpointsTest, SendIdleSessionsAwayAndStayThemselves) {
  limits_.memory_bytes = 3 * kCheckpointBytes;
  const SessionHandle source = Source(nullptr);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(store()
                    .InstallFork(source, absl::StrCat("s", i), ThreeTurns(),
                                 MakeBlock(kStateBytes))
                    .ok());
    clock_.Advance(absl::Seconds(1));
  }
  ASSERT_TRUE(store().Get({nullptr, "s2"}).ok());
  ASSERT_TRUE(Make(nullptr, "c").ok());
  EXPECT_LE(store().Counts().ram_bytes, limits_.memory_bytes);
  EXPECT_FALSE(store().Get({nullptr, "s2"}).ok());
  for (int i = 5; i < 10; ++i) {
    ASSERT_TRUE(store()
                    .InstallFork(source, absl::StrCat("s", i), ThreeTurns(),
                                 MakeBlock(kStateBytes))
                    .ok());
  }
  EXPECT_LE(store().Counts().ram_bytes, limits_.memory_bytes);
  EXPECT_THAT(Ids(nullptr), ElementsAre("c"));
}

TEST_F(SessionCheckpointsTest, LeaveWhatTurnsHaveReserved) {
  limits_.memory_bytes = 3 * kCheckpointBytes;
  ASSERT_TRUE(Make(nullptr, "c").ok());
  ASSERT_TRUE(Begin(TurnFrom("c", "a")).ok());
  ASSERT_TRUE(Begin(TurnFrom("c", "b")).ok());
  // The checkpoint's and two turns' are all there is.
  for (int tries = 0; tries < 2; ++tries) {
    ExpectCode(Begin(TurnFrom("c", "d")).status(), Code::kResourceExhausted,
               "is reserved for turns");
  }
}

TEST_F(SessionCheckpointsTest, AreOnlySoMany) {
  limits_.checkpoints = 2;
  ASSERT_TRUE(Make(nullptr, "a").ok());
  ASSERT_TRUE(Make(nullptr, "b").ok());
  ExpectCode(Make(nullptr, "c").status(), Code::kResourceExhausted,
             "there are 2 checkpoints, limit 2 (--max-checkpoints)");
  ASSERT_TRUE(store().DeleteCheckpoint({nullptr, "a"}).ok());
  EXPECT_TRUE(Make(nullptr, "c").ok());
}

TEST_F(SessionCheckpointsTest, LeaveAPartToOtherTenants) {
  limits_.checkpoints = 4;
  for (const char* id : {"a", "b"}) ASSERT_TRUE(Make(ann_, id).ok());
  ExpectCode(Make(ann_, "c").status(), Code::kResourceExhausted,
             "there are 2 checkpoints of tenant \"ann\", limit 2 beside "
             "other tenants (--max-checkpoints)");
  EXPECT_TRUE(Make(bob_, "a").ok());
}

TEST_F(SessionCheckpointsTest, CountInWhatTheirTenantMayHold) {
  TenantLimits limits;
  limits.session_bytes = 2 * kStateBytes + 1500;
  ann_->SetLimits(limits);
  ASSERT_TRUE(Make(ann_, "a").ok());
  const std::vector<TenantUse> uses = store().UsesOfTenants();
  ASSERT_EQ(uses.size(), 1);
  EXPECT_GT(uses[0].bytes, kStateBytes);
  ExpectCode(Make(ann_, "b").status(), Code::kResourceExhausted,
             "(session_bytes)");
  // A session that starts from one adds a state only when its turn may.
  Request turn = TurnFrom("a", "new");
  turn.tenant = ann_;
  ExpectCode(Begin(turn).status(), Code::kResourceExhausted, "(session_bytes)");
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(store()
                    .Create({.name = {ann_, absl::StrCat("s", i)},
                             .from_checkpoint = "a"})
                    .ok());
  }
  limits.session_bytes = *limits.session_bytes + kCheckpointBytes;
  ann_->SetLimits(limits);
  EXPECT_TRUE(Begin(turn).ok());
}

}  // namespace
}  // namespace engram
