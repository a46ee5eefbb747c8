#include "server/session_store.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/slot_number.h"
#include "tests/server/store_test.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Code = absl::StatusCode;

// What a session in RAM takes at most, its own fields included.
constexpr size_t kSessionBytes = kStateBytes + 2048;

// A store and the slots that its engine would have.
class SessionStoreTest : public StoreTest {
 protected:
  absl::StatusOr<SessionStore::TurnOrRecord> Begin(Request request,
                                                   int model = 0) {
    return store().BeginTurn(model, request, [this](absl::Status status) {
      cancelled_.push_back(status);
    });
  }

  // A turn that has begun, which the test expects to.
  SessionStore::Turn BeginGood(const Request& request) {
    absl::StatusOr<SessionStore::TurnOrRecord> begun = Begin(request);
    EXPECT_TRUE(begun.ok()) << begun.status();
    return std::get<SessionStore::Turn>(*begun);
  }

  bool CommitAs(const SessionStore::Turn& turn, const Request& request,
                int slot, int64_t tokens = 3) {
    CommittedTurns turns;
    turns.version = turn.start.version + 1;
    turns.position = turn.start.position + tokens;
    turns.pending = 1;
    TurnRecord record;
    record.request_id = request.request_id;
    record.identity = request.identity;
    record.completed.version = turns.version;
    record.tokens = {1};
    return store().Commit(turn.session, turns, slot, std::move(record));
  }

  // One whole turn, its state in a slot that is never used again.
  void RunTurn(const std::string& session_id, const std::string& request_id,
               std::optional<int64_t> expected = std::nullopt) {
    Request request = Turn(session_id, request_id);
    request.expected_version = expected;
    EXPECT_TRUE(CommitAs(BeginGood(request), request, next_slot_++));
    clock_.Advance(absl::Seconds(1));
  }

  static Request Turn(const std::string& session_id,
                      const std::string& request_id) {
    return TestEngine::Turn(session_id, request_id, {1}, 1);
  }

  // Moves the state that would yield its slot next; its session's slot.
  int MoveOne() {
    const auto resident = store().EvictionCandidate(0);
    EXPECT_TRUE(resident.has_value());
    if (!resident.has_value()) return -1;
    EXPECT_TRUE(store().MoveToRam(resident->session, resident->slot,
                                  MakeBlock(kStateBytes)));
    return resident->slot;
  }

  std::vector<std::string> Ids() {
    std::vector<std::string> ids;
    for (const SessionInfo& one : store().List(nullptr, -1, "", 1000)) {
      ids.push_back(one.session_id);
    }
    return ids;
  }

  std::vector<absl::Status> cancelled_;
  int next_slot_ = 0;
};

// --- The order of checks.

TEST_F(SessionStoreTest, RefusesASecondTurnWhileOneRuns) {
  BeginGood(Turn("a", "r1"));
  ExpectCode(Begin(Turn("a", "r2")).status(), Code::kAborted, "running");
}

TEST_F(SessionStoreTest, RefusesTheSameRequestWhileItRuns) {
  BeginGood(Turn("a", "r1"));
  ExpectCode(Begin(Turn("a", "r1")).status(), Code::kAborted, "running");
}

TEST_F(SessionStoreTest, RefusesARunningTurnBeforeAWrongVersion) {
  BeginGood(Turn("a", "r1"));
  Request request = Turn("a", "r2");
  request.expected_version = 7;
  ExpectCode(Begin(request).status(), Code::kAborted, "running");
}

TEST_F(SessionStoreTest, ReplaysBeforeItLooksForARunningTurn) {
  RunTurn("a", "r1");
  BeginGood(Turn("a", "r2"));
  const auto replay = Begin(Turn("a", "r1"));
  ASSERT_TRUE(replay.ok()) << replay.status();
  EXPECT_EQ(std::get<1>(*replay)->request_id, "r1");
}

TEST_F(SessionStoreTest, ReplaysARepeatWithItsOldExpectedVersion) {
  Request request = Turn("a", "r1");
  request.expected_version = 0;
  EXPECT_TRUE(CommitAs(BeginGood(request), request, 0));
  const auto replay = Begin(request);
  ASSERT_TRUE(replay.ok()) << replay.status();
  EXPECT_EQ(std::get<1>(*replay)->completed.version, 1);
}

TEST_F(SessionStoreTest, RunsATurnWithTheVersionItExpects) {
  RunTurn("a", "r1");
  Request request = Turn("a", "r2");
  request.expected_version = 1;
  EXPECT_EQ(BeginGood(request).start.version, 1);
}

TEST_F(SessionStoreTest, TellsTheActualVersionToWhoExpectsAnother) {
  RunTurn("a", "r1");
  Request request = Turn("a", "r2");
  request.expected_version = 5;
  ExpectCode(Begin(request).status(), Code::kFailedPrecondition,
             "has version 1, expected_version is 5");
}

TEST_F(SessionStoreTest, TakesExpectedVersionZeroAsMustBeNew) {
  Request request = Turn("a", "r1");
  request.expected_version = 0;
  EXPECT_TRUE(CommitAs(BeginGood(request), request, 0));
  request.request_id = "r2";
  ExpectCode(Begin(request).status(), Code::kFailedPrecondition,
             "has version 1");
}

TEST_F(SessionStoreTest, RefusesAVersionOfASessionThatIsNotThere) {
  Request request = Turn("a", "r1");
  request.expected_version = 2;
  ExpectCode(Begin(request).status(), Code::kFailedPrecondition,
             "has version 0");
  EXPECT_THAT(Ids(), IsEmpty());
}

TEST_F(SessionStoreTest, RefusesAnEmptyPromptWithoutPendingToken) {
  Request request = Turn("a", "r1");
  request.prompt.clear();
  ExpectCode(Begin(request).status(), Code::kInvalidArgument,
             "no pending token");
  RunTurn("a", "r1");
  request.request_id = "r2";
  EXPECT_TRUE(Begin(request).ok());
}

TEST_F(SessionStoreTest, RefusesATurnOfAnotherModel) {
  RunTurn("a", "r1");
  ExpectCode(Begin(Turn("a", "r2"), 1).status(), Code::kInvalidArgument,
             "belongs to model \"m\", not \"other\"");
}

TEST_F(SessionStoreTest, RefusesARepeatThatNamesAnotherModel) {
  RunTurn("a", "r1");
  ExpectCode(Begin(Turn("a", "r1"), 1).status(), Code::kInvalidArgument,
             "belongs to model \"m\", not \"other\"");
}

// --- request_id.

TEST_F(SessionStoreTest, RefusesTheIdOfAnotherRequest) {
  RunTurn("a", "r1");
  Request request = Turn("a", "r1");
  request.identity[31] = 1;
  ExpectCode(Begin(request).status(), Code::kInvalidArgument, "\"r1\"");
}

TEST_F(SessionStoreTest, RemembersTheIdsOfAllTurns) {
  for (int turn = 1; turn <= 300; ++turn) RunTurn("a", absl::StrCat("r", turn));
  for (int turn = 1; turn < 300; ++turn) {
    ExpectCode(Begin(Turn("a", absl::StrCat("r", turn))).status(),
               Code::kAlreadyExists, absl::StrCat("as version ", turn, " "));
  }
  EXPECT_TRUE(std::holds_alternative<std::shared_ptr<const TurnRecord>>(
      *Begin(Turn("a", "r300"))));
}

// As of a session whose ids the client makes, and of which one turn is more
// than are remembered.
TEST_F(SessionStoreTest, RunsNothingAgainThatItMayHaveForgotten) {
  limits_.remembered_turns = 5;
  for (int turn = 1; turn <= 6; ++turn) RunTurn("a", absl::StrCat("r", turn));
  for (const char* id : {"r1", "new"}) {
    ExpectCode(Begin(Turn("a", id)).status(), Code::kFailedPrecondition,
               absl::StrCat("up to version 1 (it remembers 5, "
                            "--remembered-turns), and \"",
                            id, "\""));
  }
  for (int turn = 2; turn < 6; ++turn) {
    ExpectCode(Begin(Turn("a", absl::StrCat("r", turn))).status(),
               Code::kAlreadyExists, absl::StrCat("as version ", turn, " "));
  }
  EXPECT_EQ(store().Get(Named("a"))->version, 6);
}

TEST_F(SessionStoreTest,
       RunsWhatExpectsThePresentVersionWhateverItHasForgotten) {
  limits_.remembered_turns = 5;
  Request first = Turn("a", "r1");
  first.expected_version = 0;
  EXPECT_TRUE(CommitAs(BeginGood(first), first, 0));
  for (int turn = 2; turn <= 6; ++turn) RunTurn("a", absl::StrCat("r", turn));
  // A repeat still has its old version.
  ExpectCode(Begin(first).status(), Code::kFailedPrecondition,
             "has version 6, expected_version is 0");
  Request next = Turn("a", "new");
  next.expected_version = 6;
  BeginGood(next);
}

TEST_F(SessionStoreTest, TellsByItsOwnIdsWhichMayBeForgotten) {
  limits_.remembered_turns = 5;
  const std::string at_start = store().MakeRequestId(Named("a"));
  RunTurn("a", at_start);
  const std::string at_one =
      store().MakeRequestId(Named("a"));  // is never sent
  for (int turn = 2; turn <= 6; ++turn)
    RunTurn("a", store().MakeRequestId(Named("a")));
  ExpectCode(Begin(Turn("a", at_start)).status(), Code::kFailedPrecondition,
             "may be one of them");
  // What was made at version 1 commits as version 2 at least, and those are
  // remembered.
  store().Abort(BeginGood(Turn("a", at_one)).session);
  RunTurn("a", "r7x", /*expected=*/6);
  ExpectCode(Begin(Turn("a", at_one)).status(), Code::kFailedPrecondition,
             "may be one of them");
  store().Abort(
      BeginGood(Turn("a", store().MakeRequestId(Named("a")))).session);
  // An id of another session is like a client's own.
  ExpectCode(Begin(Turn("a", store().MakeRequestId(Named("b")))).status(),
             Code::kFailedPrecondition, "may be one of them");
}

TEST_F(SessionStoreTest, ForgetsNothingOfAForkThatIsNotItsOwn) {
  limits_.remembered_turns = 2;
  for (int turn = 1; turn <= 9; ++turn) {
    RunTurn("a", absl::StrCat("r", turn), turn - 1);
  }
  const SessionHandle source = *store().Find(Named("a"));
  ASSERT_TRUE(store()
                  .InstallFork(source, "b", store().Locate(source)->turns,
                               MakeBlock(kStateBytes))
                  .ok());
  RunTurn("b", "r1");
  RunTurn("b", "r2");
  ExpectCode(Begin(Turn("b", "r1")).status(), Code::kAlreadyExists,
             "as version 10 ");
  RunTurn("b", "r3");
  ExpectCode(Begin(Turn("b", "r1")).status(), Code::kFailedPrecondition,
             "up to version 10 ");
}

TEST_F(SessionStoreTest, KeepsNoAnswerOfMoreThanItsBytes) {
  limits_.answer_bytes = 100000;
  for (const int tokens : {20000, 30000}) {  // of four bytes each
    const std::string id = absl::StrCat("s", tokens);
    const Request request = Turn(id, "r");
    const SessionStore::Turn turn = BeginGood(request);
    TurnRecord record;
    record.request_id = "r";
    record.tokens.assign(tokens, 7);
    CommittedTurns turns;
    turns.version = 1;
    turns.position = 3;
    ASSERT_TRUE(
        store().Commit(turn.session, turns, next_slot_++, std::move(record)));
  }
  EXPECT_TRUE(Begin(Turn("s20000", "r")).ok());
  ExpectCode(Begin(Turn("s30000", "r")).status(), Code::kAlreadyExists,
             "no longer kept");
}

TEST_F(SessionStoreTest, GivesUpTheOldestLongAnswersWhenMemoryIsFull) {
  limits_.memory_bytes = kSessionBytes + 200000;
  for (const std::string id : {"a", "b", "c"}) {
    const Request request = Turn(id, "r1");
    const SessionStore::Turn turn = BeginGood(request);
    TurnRecord record;
    record.request_id = "r1";
    record.identity = request.identity;
    record.completed.version = 1;
    record.tokens.assign(20000, 7);  // 80,000 bytes
    CommittedTurns turns;
    turns.version = 1;
    turns.position = 3;
    ASSERT_TRUE(
        store().Commit(turn.session, turns, next_slot_++, std::move(record)));
    EXPECT_LE(store().Counts().ram_bytes, limits_.memory_bytes);
    clock_.Advance(absl::Seconds(1));
  }
  // All three sessions are there; the first one's answer is not.
  EXPECT_THAT(Ids(), ElementsAre("a", "b", "c"));
  ExpectCode(Begin(Turn("a", "r1")).status(), Code::kAlreadyExists,
             "as version 1");
  EXPECT_TRUE(std::holds_alternative<std::shared_ptr<const TurnRecord>>(
      *Begin(Turn("c", "r1"))));
}

TEST_F(SessionStoreTest, RunsARequestAgainThatDidNotCommit) {
  store().Abort(BeginGood(Turn("a", "r1")).session);
  BeginGood(Turn("a", "r1"));
}

TEST_F(SessionStoreTest, GivesAForkNoRequestIds) {
  RunTurn("a", "r1");
  const SessionHandle source = *store().Find(Named("a"));
  ASSERT_TRUE(store()
                  .InstallFork(source, "b", store().Locate(source)->turns,
                               MakeBlock(kStateBytes))
                  .ok());
  EXPECT_TRUE(
      std::holds_alternative<SessionStore::Turn>(*Begin(Turn("b", "r1"))));
}

// --- Commit and abort.

TEST_F(SessionStoreTest, IsAtTheVersionBeforeAfterAnAbort) {
  RunTurn("a", "r1");
  store().Abort(BeginGood(Turn("a", "r2")).session);
  EXPECT_EQ(store().Get(Named("a"))->version, 1);
  EXPECT_EQ(store().Get(Named("a"))->position, 3);
  EXPECT_THAT(store().ReleasedSlots(0), IsEmpty());
}

TEST_F(SessionStoreTest, ForgetsASessionWhoseFirstTurnIsAborted) {
  store().Abort(BeginGood(Turn("a", "r1")).session);
  EXPECT_THAT(Ids(), IsEmpty());
  // Nothing was lost: it may come again at once.
  BeginGood(Turn("a", "r1"));
}

TEST_F(SessionStoreTest, KeepsACreatedSessionWhoseFirstTurnIsAborted) {
  ASSERT_TRUE(store().Create(EmptySession("a")).ok());
  store().Abort(BeginGood(Turn("a", "r1")).session);
  EXPECT_THAT(Ids(), ElementsAre("a"));
}

TEST_F(SessionStoreTest, ShowsNobodyASessionInItsFirstTurn) {
  const SessionStore::Turn turn = BeginGood(Turn("a", "r1"));
  EXPECT_THAT(Ids(), IsEmpty());
  ExpectCode(store().Get(Named("a")).status(), Code::kNotFound, "first turn");
  ExpectCode(store().Find(Named("a")).status(), Code::kNotFound, "first turn");
  CommitAs(turn, Turn("a", "r1"), 0);
  EXPECT_THAT(Ids(), ElementsAre("a"));
}

TEST_F(SessionStoreTest, GivesBackTheSlotOfTheStateBefore) {
  RunTurn("a", "r1");
  RunTurn("a", "r2");
  EXPECT_THAT(store().ReleasedSlots(0), ElementsAre(0));
  EXPECT_THAT(store().ReleasedSlots(0), IsEmpty());
  EXPECT_EQ(store().Locate(*store().Find(Named("a")))->slot, 1);
}

TEST_F(SessionStoreTest, ShowsTheLastCommitWhileATurnRuns) {
  RunTurn("a", "r1");
  BeginGood(Turn("a", "r2"));
  EXPECT_EQ(store().Get(Named("a"))->version, 1);
  EXPECT_EQ(store().Locate(*store().Find(Named("a")))->turns.position, 3);
}

// --- Delete.

TEST_F(SessionStoreTest, CancelsTheTurnOfADeletedSession) {
  RunTurn("a", "r1");
  const SessionStore::Turn turn = BeginGood(Turn("a", "r2"));
  EXPECT_TRUE(store().Delete(Named("a")).ok());
  ASSERT_EQ(cancelled_.size(), 1);
  ExpectCode(cancelled_[0], Code::kCancelled, "\"a\" was deleted");
  EXPECT_FALSE(CommitAs(turn, Turn("a", "r2"), 1));
  store().Abort(turn.session);
  EXPECT_THAT(Ids(), IsEmpty());
  EXPECT_THAT(store().ReleasedSlots(0), ElementsAre(0));
  EXPECT_EQ(store().Counts().ram_bytes, 0);
}

TEST_F(SessionStoreTest, LeavesANewSessionOfADeletedNameAlone) {
  const SessionStore::Turn old = BeginGood(Turn("a", "r1"));
  ASSERT_TRUE(store().Delete(Named("a")).ok());
  RunTurn("a", "r2");
  store().Abort(old.session);
  EXPECT_FALSE(CommitAs(old, Turn("a", "r1"), 5));
  EXPECT_EQ(store().Get(Named("a"))->version, 1);
}

TEST_F(SessionStoreTest, TellsThatThereIsNothingToDelete) {
  ExpectCode(store().Delete(Named("a")), Code::kNotFound, "no session \"a\"");
}

TEST_F(SessionStoreTest, TellsWhoLocatesADeletedSession) {
  RunTurn("a", "r1");
  const SessionHandle session = *store().Find(Named("a"));
  ASSERT_TRUE(store().Delete(Named("a")).ok());
  ExpectCode(store().Locate(session).status(), Code::kNotFound, "deleted");
}

// --- Time to live, and the departed.

TEST_F(SessionStoreTest, ForgetsASessionAfterItsTimeToLive) {
  limits_.time_to_live = absl::Hours(1);
  RunTurn("a", "r1");  // a second passes
  clock_.Advance(absl::Hours(1) - absl::Seconds(2));
  store().Sweep();
  EXPECT_THAT(Ids(), ElementsAre("a"));
  clock_.Advance(absl::Seconds(1));
  store().Sweep();
  EXPECT_THAT(Ids(), IsEmpty());
  EXPECT_THAT(store().ReleasedSlots(0), ElementsAre(0));
  EXPECT_EQ(store().Counts().models[0].expirations, 1);
}

TEST_F(SessionStoreTest, CountsTheTimeToLiveFromTheLastTurn) {
  limits_.time_to_live = absl::Hours(1);
  RunTurn("a", "r1");
  clock_.Advance(absl::Minutes(50));
  RunTurn("a", "r2");
  clock_.Advance(absl::Minutes(50));
  store().Sweep();
  EXPECT_THAT(Ids(), ElementsAre("a"));
  EXPECT_EQ(store().Get(Named("a"))->expire_time,
            store().Get(Named("a"))->last_used_time + absl::Hours(1));
}

TEST_F(SessionStoreTest, TakesATimeToLiveOfItsOwn) {
  NewSession session = EmptySession("a");
  session.time_to_live = absl::Minutes(1);
  ASSERT_TRUE(store().Create(session).ok());
  clock_.Advance(absl::Minutes(1));
  store().Sweep();
  EXPECT_THAT(Ids(), IsEmpty());
}

TEST_F(SessionStoreTest, RefusesTheDepartedUntilCreate) {
  RunTurn("a", "r1");
  clock_.Advance(limits_.time_to_live);
  store().Sweep();
  ExpectCode(Begin(Turn("a", "r2")).status(), Code::kNotFound, "expired at");
  ExpectCode(store().Get(Named("a")).status(), Code::kNotFound,
             "Create or Delete");
  ASSERT_TRUE(store().Create(EmptySession("a")).ok());
  EXPECT_EQ(BeginGood(Turn("a", "r2")).start.version, 0);
}

TEST_F(SessionStoreTest, RefusesTheDepartedUntilDelete) {
  RunTurn("a", "r1");
  clock_.Advance(limits_.time_to_live);
  store().Sweep();
  EXPECT_TRUE(store().Delete(Named("a")).ok());
  BeginGood(Turn("a", "r2"));
}

TEST_F(SessionStoreTest, RefusesTheDepartedAfterACreateThatFailed) {
  limits_.sessions = 1;
  RunTurn("a", "r1");
  const SessionHandle source = *store().Find(Named("a"));
  clock_.Advance(limits_.time_to_live);
  store().Sweep();
  const SessionStore::Turn other = BeginGood(Turn("b", "r1"));
  EXPECT_EQ(store().Create(EmptySession("a")).status().code(),
            Code::kResourceExhausted);
  EXPECT_EQ(store().InstallFork(source, "a", {}, nullptr).status().code(),
            Code::kResourceExhausted);
  store().Abort(other.session);
  ExpectCode(Begin(Turn("a", "r2")).status(), Code::kNotFound, "expired at");
}

TEST_F(SessionStoreTest, MissesNobodyWhoHadNoMemory) {
  ASSERT_TRUE(store().Create(EmptySession("a")).ok());
  clock_.Advance(limits_.time_to_live);
  store().Sweep();
  EXPECT_EQ(BeginGood(Turn("a", "r1")).start.version, 0);
}

TEST_F(SessionStoreTest, RemembersABoundedNumberOfTheDeparted) {
  limits_.departed = 2;
  for (const char* id : {"a", "b", "c"}) RunTurn(id, "r");
  clock_.Advance(limits_.time_to_live);
  store().Sweep();
  EXPECT_TRUE(Begin(Turn("a", "r")).ok());
  EXPECT_EQ(Begin(Turn("b", "r")).status().code(), Code::kNotFound);
  EXPECT_EQ(Begin(Turn("c", "r")).status().code(), Code::kNotFound);
}

TEST_F(SessionStoreTest, RemembersWhoDepartedAgain) {
  limits_.departed = 2;
  RunTurn("a", "r");
  clock_.Advance(limits_.time_to_live);
  store().Sweep();
  ASSERT_TRUE(store().Delete(Named("a")).ok());
  RunTurn("b", "r");
  RunTurn("a", "r");
  clock_.Advance(limits_.time_to_live);
  store().Sweep();
  EXPECT_EQ(Begin(Turn("a", "r")).status().code(), Code::kNotFound);
  EXPECT_EQ(Begin(Turn("b", "r")).status().code(), Code::kNotFound);
}

// --- Tiers.

TEST_F(SessionStoreTest, GivesUpTheSlotUsedLeastRecently) {
  for (const char* id : {"a", "b", "c"}) RunTurn(id, "r1");
  RunTurn("a", "r2");  // in slot 3
  EXPECT_EQ(MoveOne(), 1);
  EXPECT_EQ(MoveOne(), 2);
  EXPECT_EQ(MoveOne(), 3);
  EXPECT_FALSE(store().EvictionCandidate(0).has_value());
  EXPECT_EQ(store().Get(Named("a"))->tier, "ram");
}

TEST_F(SessionStoreTest, GivesUpIdleSlotsBeforeThoseBehindATurn) {
  RunTurn("a", "r1");
  RunTurn("b", "r1");
  BeginGood(Turn("a", "r2"));
  EXPECT_EQ(MoveOne(), 1);
  EXPECT_EQ(MoveOne(), 0);
}

TEST_F(SessionStoreTest, GivesUpNoSlotOfAnotherModel) {
  RunTurn("a", "r1");
  EXPECT_FALSE(store().EvictionCandidate(1).has_value());
}

TEST_F(SessionStoreTest, MovesNoStateOfADeletedSession) {
  RunTurn("a", "r1");
  const auto resident = store().EvictionCandidate(0);
  ASSERT_TRUE(store().Delete(Named("a")).ok());
  EXPECT_FALSE(store().MoveToRam(resident->session, resident->slot, nullptr));
  EXPECT_THAT(store().ReleasedSlots(0), ElementsAre(0));
}

TEST_F(SessionStoreTest, DropsTheSessionUsedLeastRecentlyWhenRamIsFull) {
  limits_.memory_bytes = 2 * kSessionBytes;
  for (const char* id : {"a", "b", "c"}) RunTurn(id, "r1");
  for (int i = 0; i < 3; ++i) MoveOne();
  EXPECT_THAT(Ids(), ElementsAre("b", "c"));
  EXPECT_LE(store().Counts().ram_bytes, limits_.memory_bytes);
  EXPECT_EQ(store().Counts().models[0].evictions_for_good, 1);
  ExpectCode(Begin(Turn("a", "r2")).status(), Code::kNotFound,
             "evicted: session memory is full");
}

TEST_F(SessionStoreTest, NeverDropsTheStateBehindATurn) {
  limits_.memory_bytes = 2 * kSessionBytes;
  for (const char* id : {"a", "b", "c"}) RunTurn(id, "r1");
  const SessionStore::Turn turn = BeginGood(Turn("a", "r2"));
  for (int i = 0; i < 3; ++i) MoveOne();
  EXPECT_THAT(Ids(), ElementsAre("a", "c"));
  EXPECT_NE(store().Locate(turn.session)->block, nullptr);
  EXPECT_LE(store().Counts().ram_bytes, limits_.memory_bytes);
}

TEST_F(SessionStoreTest, RefusesATurnWhoseStateWouldHaveNoRoom) {
  limits_.memory_bytes = 2 * kStateBytes;
  for (const char* id : {"a", "b", "c"}) RunTurn(id, "r1");
  BeginGood(Turn("a", "r2"));
  const SessionStore::Turn second = BeginGood(Turn("b", "r2"));
  ExpectCode(Begin(Turn("c", "r2")).status(), Code::kResourceExhausted,
             "--session-memory");
  // One without a state needs none.
  BeginGood(Turn("new", "r1"));
  store().Abort(second.session);
  BeginGood(Turn("c", "r2"));
}

TEST_F(SessionStoreTest, GivesReservedRoomBackOnDelete) {
  limits_.memory_bytes = kStateBytes;
  RunTurn("a", "r1");
  RunTurn("b", "r1");
  BeginGood(Turn("a", "r2"));
  ASSERT_EQ(Begin(Turn("b", "r2")).status().code(), Code::kResourceExhausted);
  ASSERT_TRUE(store().Delete(Named("a")).ok());
  BeginGood(Turn("b", "r2"));
}

TEST_F(SessionStoreTest, StaysWithinItsBytesAfterAnAbort) {
  limits_.memory_bytes = 2 * kSessionBytes;
  for (const char* id : {"a", "b"}) RunTurn(id, "r1");
  std::vector<SessionStore::Turn> turns;
  for (const char* id : {"a", "b"}) turns.push_back(BeginGood(Turn(id, "r2")));
  MoveOne();
  MoveOne();
  // Their own fields alone are more than what is left.
  for (int i = 0; i < 8; ++i) {
    turns.push_back(BeginGood(Turn(absl::StrCat("new", i), "r")));
  }
  store().Abort(turns[0].session);
  store().Abort(turns[1].session);
  EXPECT_LE(store().Counts().ram_bytes, limits_.memory_bytes);
}

TEST_F(SessionStoreTest, ForksOnlyWithinItsBytes) {
  limits_.memory_bytes = 3 * kSessionBytes;
  RunTurn("a", "r1");
  const SessionHandle source = *store().Find(Named("a"));
  CommittedTurns turns = store().Locate(source)->turns;
  turns.seen = std::make_shared<const TokenSet>(1 << 16);
  for (int i = 0; i < 6; ++i) {
    ASSERT_TRUE(store()
                    .InstallFork(source, absl::StrCat("fork", i), turns,
                                 MakeBlock(kStateBytes))
                    .ok());
    clock_.Advance(absl::Seconds(1));
    EXPECT_LE(store().Counts().ram_bytes, limits_.memory_bytes);
  }
  EXPECT_TRUE(store().Get(Named("a")).ok());
  EXPECT_TRUE(store().Get(Named("fork5")).ok());
  EXPECT_FALSE(store().Get(Named("fork0")).ok());
}

TEST_F(SessionStoreTest, RefusesAForkThatCanHaveNoRoom) {
  limits_.memory_bytes = kStateBytes;
  RunTurn("a", "r1");
  const SessionHandle source = *store().Find(Named("a"));
  ExpectCode(store()
                 .InstallFork(source, "b", store().Locate(source)->turns,
                              MakeBlock(kStateBytes))
                 .status(),
             Code::kResourceExhausted, "no room for a fork");
  EXPECT_TRUE(store().Get(Named("a")).ok());
}

// --- The number of sessions.

TEST_F(SessionStoreTest, DropsTheSessionUsedLeastRecentlyWhenThereAreTooMany) {
  limits_.sessions = 2;
  NewSession first = EmptySession("used first, dies last");
  first.time_to_live = absl::InfiniteDuration();
  ASSERT_TRUE(store().Create(first).ok());
  clock_.Advance(absl::Seconds(1));
  RunTurn("b", "r1");
  RunTurn("c", "r1");
  EXPECT_THAT(Ids(), ElementsAre("b", "c"));
  RunTurn("d", "r1");
  EXPECT_THAT(Ids(), ElementsAre("c", "d"));
  ExpectCode(store().Get(Named("b")).status(), Code::kNotFound,
             "evicted: too many sessions");
}

TEST_F(SessionStoreTest, RefusesANewSessionWhenAllHaveRunningTurns) {
  limits_.sessions = 2;
  BeginGood(Turn("a", "r1"));
  BeginGood(Turn("b", "r1"));
  ExpectCode(Begin(Turn("c", "r1")).status(), Code::kResourceExhausted,
             "--max-sessions");
  ExpectCode(store().Create(EmptySession("c")).status(),
             Code::kResourceExhausted, "limit 2");
}

// --- As users see them.

TEST_F(SessionStoreTest, CreatesASession) {
  NewSession session = EmptySession("a");
  session.labels = {{"user", "7"}};
  const absl::StatusOr<SessionInfo> info = store().Create(session);
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->model, "m");
  EXPECT_EQ(info->version, 0);
  EXPECT_EQ(info->tier, "none");
  EXPECT_EQ(info->state_bytes, 0);
  EXPECT_EQ(info->labels->at("user"), "7");
  EXPECT_EQ(info->create_time, clock_.Now());
}

TEST_F(SessionStoreTest, RefusesToCreateASessionTwice) {
  ASSERT_TRUE(store().Create(EmptySession("a")).ok());
  ExpectCode(store().Create(EmptySession("a")).status(), Code::kAlreadyExists,
             "\"a\" exists");
}

TEST_F(SessionStoreTest, TellsWhereAStateLies) {
  RunTurn("a", "r1");
  EXPECT_EQ(store().Get(Named("a"))->tier, "slot");
  EXPECT_EQ(store().Get(Named("a"))->state_bytes, kStateBytes);
  EXPECT_TRUE(store().Get(Named("a"))->pending_token);
  EXPECT_EQ(store().Counts().models[0].sessions_in_slots, 1);
  MoveOne();
  EXPECT_EQ(store().Get(Named("a"))->tier, "ram");
  EXPECT_EQ(store().Counts().models[0].sessions_in_slots, 0);
  EXPECT_EQ(store().Counts().models[0].sessions_in_ram, 1);
}

TEST_F(SessionStoreTest, ListsPagesInOrderOfId) {
  for (const char* id : {"c", "a", "d", "b"}) {
    ASSERT_TRUE(store().Create(EmptySession(id, id[0] == 'c' ? 1 : 0)).ok());
  }
  EXPECT_THAT(Ids(), ElementsAre("a", "b", "c", "d"));
  const std::vector<SessionInfo> page = store().List(nullptr, 0, "a", 2);
  ASSERT_EQ(page.size(), 2);
  EXPECT_EQ(page[0].session_id, "b");
  EXPECT_EQ(page[1].session_id, "d");
  EXPECT_THAT(store().List(nullptr, 0, "d", 2), IsEmpty());
}

TEST_F(SessionStoreTest, ForksIntoANewSessionAtTheVersionOfItsSource) {
  NewSession named = EmptySession("a");
  named.labels = {{"k", "v"}};
  ASSERT_TRUE(store().Create(named).ok());
  RunTurn("a", "r1");
  const SessionHandle source = *store().Find(Named("a"));
  const auto block = MakeBlock(kStateBytes);
  const absl::StatusOr<SessionInfo> fork =
      store().InstallFork(source, "b", store().Locate(source)->turns, block);
  ASSERT_TRUE(fork.ok()) << fork.status();
  EXPECT_EQ(fork->version, 1);
  EXPECT_EQ(fork->position, 3);
  EXPECT_TRUE(fork->pending_token);
  EXPECT_EQ(fork->labels->at("k"), "v");
  EXPECT_EQ(store().Locate(*store().Find(Named("b")))->block, block);
  EXPECT_EQ(store().Counts().models[0].forks, 1);
}

TEST_F(SessionStoreTest, RefusesToForkIntoASessionThatExists) {
  RunTurn("a", "r1");
  RunTurn("b", "r1");
  const SessionHandle source = *store().Find(Named("a"));
  ExpectCode(store().InstallFork(source, "b", {}, nullptr).status(),
             Code::kAlreadyExists, "\"b\" exists");
}

TEST_F(SessionStoreTest, ListsEverySessionOnceInHoweverManyParts) {
  limits_.time_to_live = absl::InfiniteDuration();
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(
        store().Create(EmptySession(absl::StrCat("s", 1000 + i), i % 2)).ok());
  }
  EXPECT_EQ(store().List(nullptr, -1, "", 2000).size(), 1000);
  const std::vector<SessionInfo> other = store().List(nullptr, 1, "", 2000);
  ASSERT_EQ(other.size(), 500);
  for (size_t i = 0; i < other.size(); ++i) {
    EXPECT_EQ(other[i].session_id, absl::StrCat("s", 1001 + 2 * i));
    EXPECT_EQ(other[i].model, "other");
  }
  EXPECT_EQ(store().List(nullptr, 1, "s1500", 300).size(), 250);
  EXPECT_EQ(store().List(nullptr, 1, "s1500", 300).front().session_id, "s1501");
}

TEST_F(SessionStoreTest, SweepsInPartsUntilAllHaveGone) {
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(store().Create(EmptySession(absl::StrCat("s", i))).ok());
  }
  clock_.Advance(limits_.time_to_live);
  int parts = 1;
  while (!store().Sweep()) ++parts;
  EXPECT_THAT(Ids(), IsEmpty());
  EXPECT_GT(parts, 5);
}

TEST_F(SessionStoreTest, SendsAsManyAwayAsALargeStateNeeds) {
  limits_.memory_bytes = 1 << 20;
  RunTurn("a", "r1");
  for (int i = 0; i < 1500; ++i) {
    ASSERT_TRUE(store().Create(EmptySession(absl::StrCat("s", i))).ok());
  }
  clock_.Advance(absl::Seconds(1));
  const SessionHandle source = *store().Find(Named("a"));
  ASSERT_TRUE(store()
                  .InstallFork(source, "b", store().Locate(source)->turns,
                               MakeBlock(1000000))
                  .ok());
  EXPECT_LE(store().Counts().ram_bytes, limits_.memory_bytes);
  EXPECT_TRUE(store().Get(Named("a")).ok());
}

// --- What forks share.

TEST_F(SessionStoreTest, CountsABlockOnceHoweverManyHoldIt) {
  RunTurn("a", "r1");
  const SessionHandle source = *store().Find(Named("a"));
  const auto block = MakeBlock(kStateBytes);
  store().KeepCopy(source, 0, 1, block);
  const size_t before = store().Counts().ram_bytes;
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(store()
                    .InstallFork(source, absl::StrCat("f", i),
                                 store().Locate(source)->turns, block)
                    .ok());
  }
  EXPECT_EQ(store().Counts().models[0].state_bytes_in_ram, kStateBytes);
  EXPECT_LT(store().Counts().ram_bytes, before + 10 * 1500);
  RunTurn("a", "r2");
  for (int i = 0; i < 9; ++i) {
    ASSERT_TRUE(store().Delete(Named(absl::StrCat("f", i))).ok());
  }
  EXPECT_EQ(store().Counts().models[0].state_bytes_in_ram, kStateBytes);
  ASSERT_TRUE(store().Delete(Named("f9")).ok());
  EXPECT_EQ(store().Counts().models[0].state_bytes_in_ram, 0);
}

TEST_F(SessionStoreTest, DropsACopyOfASlotBeforeAnySession) {
  limits_.memory_bytes = 3 * kSessionBytes;
  for (const char* id : {"a", "b", "c"}) RunTurn(id, "r1");
  MoveOne();
  MoveOne();
  store().KeepCopy(*store().Find(Named("c")), 2, 1, MakeBlock(kStateBytes));
  EXPECT_NE(store().Locate(*store().Find(Named("c")))->block, nullptr);
  RunTurn("d", "r1");
  EXPECT_EQ(store().EvictionCandidate(0)->slot, 2);
  EXPECT_TRUE(
      store().MoveToRam(*store().Find(Named("d")), 3, MakeBlock(kStateBytes)));
  EXPECT_EQ(store().Locate(*store().Find(Named("c")))->block, nullptr);
  EXPECT_THAT(Ids(), ElementsAre("a", "b", "c", "d"));
}

TEST_F(SessionStoreTest, MovesToRamWithTheCopyThatItHas) {
  RunTurn("a", "r1");
  const auto block = MakeBlock(kStateBytes);
  store().KeepCopy(*store().Find(Named("a")), 0, 1, block);
  const auto resident = store().EvictionCandidate(0);
  EXPECT_EQ(resident->copy, block);
  EXPECT_TRUE(store().MoveToRam(resident->session, 0, resident->copy));
  EXPECT_EQ(store().Get(Named("a"))->tier, "ram");
  EXPECT_EQ(store().Counts().models[0].state_bytes_in_ram, kStateBytes);
}

TEST_F(SessionStoreTest, KeepsNoCopyOfAStateThatIsNoMore) {
  RunTurn("a", "r1");
  RunTurn("a", "r2");
  const auto block = MakeBlock(kStateBytes);
  store().KeepCopy(*store().Find(Named("a")), 0, 1, block);
  store().KeepCopy(*store().Find(Named("a")), 1, 1, block);
  EXPECT_EQ(store().Locate(*store().Find(Named("a")))->block, nullptr);
  store().KeepCopy(*store().Find(Named("a")), 1, 2, block);
  EXPECT_EQ(store().Locate(*store().Find(Named("a")))->block, block);
  RunTurn("a", "r3");
  EXPECT_EQ(store().Locate(*store().Find(Named("a")))->block, nullptr);
}

TEST_F(SessionStoreTest, KeepsNoCopyThatTheHeapMakesLargerThanWhatIsLeft) {
  RunTurn("a", "r1");
  limits_.memory_bytes = store().Counts().ram_bytes + kStateBytes;
  store_ = nullptr;
  RunTurn("a", "r1");
  store().KeepCopy(*store().Find(Named("a")), 1, 1, MakeBlock(kStateBytes));
  EXPECT_LE(store().Counts().ram_bytes, limits_.memory_bytes);
  EXPECT_EQ(store().Locate(*store().Find(Named("a")))->block, nullptr);
}

TEST_F(SessionStoreTest, CountsNothingOnceAllAreGone) {
  RunTurn("a", "r1");
  RunTurn("b", "r1");
  MoveOne();
  BeginGood(Turn("b", "r2"));
  ASSERT_TRUE(store().Delete(Named("a")).ok());
  ASSERT_TRUE(store().Delete(Named("b")).ok());
  const SessionCounts counts = store().Counts();
  EXPECT_EQ(counts.ram_bytes, 0);
  EXPECT_EQ(counts.models[0].sessions_in_slots, 0);
  EXPECT_EQ(counts.models[0].sessions_in_ram, 0);
  EXPECT_EQ(counts.models[0].sessions_empty, 0);
}

// --- Several devices.

TEST_F(SessionStoreTest, KnowsWhichDeviceHasASessionsState) {
  store_ = std::make_unique<SessionStore>(limits_, &clock_);
  store_->AddModel("m", {.state_bytes = kStateBytes}, /*devices=*/2);
  const int far = FirstSlotOf(1);
  for (const auto& [id, slot] : {std::pair("a", 0), std::pair("b", far)}) {
    const Request request = Turn(id, "r1");
    ASSERT_TRUE(CommitAs(BeginGood(request), request, slot));
  }
  EXPECT_EQ(store().DeviceOf(Named("a")), 0);
  EXPECT_EQ(store().DeviceOf(Named("b")), 1);
  EXPECT_EQ(store().DeviceOf(Named("c")), std::nullopt);
  // Each device gives up its own.
  EXPECT_EQ(store().EvictionCandidate(0, 0)->slot, 0);
  EXPECT_EQ(store().EvictionCandidate(0, 1)->slot, far);
  const SessionHandle b = *store().Find(Named("b"));
  EXPECT_FALSE(store().MoveToRam(b, 0, MakeBlock(kStateBytes)))
      << "a slot of the other device";
  ASSERT_TRUE(store().MoveToRam(b, far, MakeBlock(kStateBytes)));
  EXPECT_EQ(store().DeviceOf(Named("b")), std::nullopt);
  EXPECT_FALSE(store().EvictionCandidate(0, 1).has_value());
  // Its next turn is on the first one, and then on the other again.
  for (const int slot : {1, far + 1}) {
    const Request request = Turn("b", absl::StrCat("r", 2 + slot));
    ASSERT_TRUE(CommitAs(BeginGood(request), request, slot));
  }
  EXPECT_THAT(store().ReleasedSlots(0, 0), ElementsAre(1));
  ASSERT_TRUE(store().Delete(Named("b")).ok());
  EXPECT_THAT(store().ReleasedSlots(0, 0), IsEmpty());
  EXPECT_THAT(store().ReleasedSlots(0, 1), ElementsAre(far + 1));
}

}  // namespace
}  // namespace engram
