#include "server/state_keeper.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "tests/server/test_engine.h"
#include "tests/support/copying_backend.h"
#include "tests/support/named.h"

namespace engram {
namespace {

constexpr int64_t kFloats = 64;
constexpr size_t kStateBytes = kFloats * sizeof(float);
constexpr int kSlots = 2;

// A store and the slots that its engine would have.
class StateKeeperTest : public ::testing::Test {
 protected:
  StateKeeperTest() {
    BackendOptions options;
    options.kind = BackendKind::kCpu;
    options.threads = 1;
    cpu_ = *MakeBackend(options);
    backend_ = std::make_unique<CopyingBackend>(cpu_.get());
    states_ =
        *StatePool::Create(backend_.get(), {{"memory", 1, {kFloats}}}, kSlots);
  }

  void Start(size_t memory_bytes = size_t{1} << 20) {
    SessionLimits limits;
    limits.memory_bytes = memory_bytes;
    const ModelCapacity capacity = {.state_bytes = kStateBytes};
    store_ = std::make_unique<SessionStore>(limits, &clock_);
    store_->AddModel("m", capacity);
    keeper_ = std::make_unique<StateKeeper>(states_.get(), capacity,
                                            /*number=*/0, store_.get());
  }

  // A turn that has begun on its session, as admission makes it.
  std::unique_ptr<Sequence> Begin(const std::string& id,
                                  const std::string& request_id) {
    auto sequence = std::make_unique<Sequence>(
        TestEngine::Turn(id, request_id, {1}, 1), nullptr,
        std::make_shared<TokenStream>(8, [] {}));
    auto begun =
        store_->BeginTurn(/*model=*/0, sequence->request, [](absl::Status) {});
    EXPECT_TRUE(begun.ok()) << begun.status();
    sequence->session = std::get<SessionStore::Turn>(*begun).session;
    return sequence;
  }
  void Load(Sequence* sequence) {
    const absl::StatusOr<bool> loaded = keeper_->TryLoad(sequence);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    ASSERT_TRUE(*loaded);
    ASSERT_TRUE(states_->IsTaken(sequence->slot));
  }
  bool Keep(Sequence* sequence) {
    CommittedTurns turns = sequence->start;
    ++turns.version;
    ++turns.position;
    TurnRecord record;
    record.request_id = sequence->request.request_id;
    return keeper_->Keep(sequence, std::move(turns), std::move(record));
  }
  // A turn that leaves a state which is all `byte`.
  void RunTurn(const std::string& id, const std::string& request_id,
               char byte) {
    const std::unique_ptr<Sequence> turn = Begin(id, request_id);
    Load(turn.get());
    RunRow(turn.get(), byte);
    ASSERT_TRUE(Keep(turn.get()));
    EXPECT_EQ(turn->slot, -1);
  }

  // A row of the sequence, after which its state is all `byte`.
  void RunRow(Sequence* sequence, char byte) {
    RunRow(sequence, sequence->slot, byte);
  }
  // Likewise, and it is left in `slot`.
  void RunRow(Sequence* sequence, int slot, char byte) {
    Write(slot, byte);
    keeper_->HasRun(sequence, slot);
  }
  // One that looks at what session `id` is, beside its turns.
  std::unique_ptr<Sequence> Look(const std::string& id) {
    auto sequence =
        std::make_unique<Sequence>(TestEngine::Score(id, {1}), nullptr,
                                   std::make_shared<TokenStream>(8, [] {}));
    sequence->session = *store_->Find(Named(id));
    return sequence;
  }
  void Write(int slot, char byte) {
    ENGRAM_CHECK_OK(
        states_->Restore(slot, std::string(kStateBytes, byte).data(), 1));
  }
  // Adds a failure unless all of the slot is `byte`.
  void ExpectState(int slot, char byte) {
    std::string state(kStateBytes, '?');
    ENGRAM_CHECK_OK(states_->Save(slot, state.data()));
    EXPECT_EQ(state, std::string(kStateBytes, byte));
  }
  std::string TierOf(const std::string& id) {
    return store_->Get(Named(id))->tier;
  }

  FakeClock clock_;
  std::unique_ptr<Backend> cpu_;
  std::unique_ptr<CopyingBackend> backend_;
  std::unique_ptr<StatePool> states_;
  std::unique_ptr<SessionStore> store_;
  std::unique_ptr<StateKeeper> keeper_;
};

TEST_F(StateKeeperTest, LoadsANewSequenceIntoACleanSlot) {
  Start();
  // Both slots have been used.
  const int first = states_->Take();
  const int second = states_->Take();
  Write(first, 'x');
  Write(second, 'x');
  states_->Free(first);
  states_->Free(second);
  const std::unique_ptr<Sequence> turn = Begin("a", "r1");
  Load(turn.get());
  ExpectState(turn->slot, '\0');
  keeper_->Release(turn.get());
  EXPECT_EQ(turn->slot, -1);
  EXPECT_EQ(states_->free_slots(), kSlots);
}

TEST_F(StateKeeperTest, LetsTheFirstRowReadTheCommittedStateWithoutACopy) {
  Start();
  RunTurn("a", "r1", 'a');
  const size_t moved = keeper_->moved_bytes();
  const std::unique_ptr<Sequence> turn = Begin("a", "r2");
  Load(turn.get());
  EXPECT_EQ(turn->start.version, 1);
  const int committed = store_->Locate(turn->session)->slot;
  EXPECT_NE(committed, turn->slot);
  EXPECT_EQ(keeper_->SlotToRead(*turn), committed);
  ExpectState(committed, 'a');
  RunRow(turn.get(), 'b');
  EXPECT_EQ(keeper_->SlotToRead(*turn), turn->slot);
  ExpectState(committed, 'a');
  // The state before it gives its slot back.
  EXPECT_TRUE(Keep(turn.get()));
  EXPECT_EQ(states_->free_slots(), kSlots - 1);
  ExpectState(store_->Locate(turn->session)->slot, 'b');
  EXPECT_EQ(backend_->copies(), 0);
  EXPECT_EQ(keeper_->moved_bytes(), moved);
}

TEST_F(StateKeeperTest, CopiesTheCommittedStateIfItsSlotIsWantedBefore) {
  Start();
  RunTurn("a", "r1", 'a');
  const std::unique_ptr<Sequence> turn = Begin("a", "r2");
  Load(turn.get());
  const size_t moved = keeper_->moved_bytes();
  const std::unique_ptr<Sequence> other = Begin("b", "r1");
  Load(other.get());
  EXPECT_EQ(TierOf("a"), "ram");
  EXPECT_EQ(backend_->copies(), 1);
  EXPECT_EQ(keeper_->SlotToRead(*turn), turn->slot);
  ExpectState(turn->slot, 'a');
  // To RAM, to the slot that reads it, and the new one that is cleared.
  EXPECT_EQ(keeper_->moved_bytes() - moved, 3 * kStateBytes);
  keeper_->Release(turn.get());
  keeper_->Release(other.get());
  EXPECT_EQ(states_->free_slots(), kSlots);
}

TEST_F(StateKeeperTest, KeepsTheSlotOfADeletedSessionForWhoReadsIt) {
  Start();
  RunTurn("a", "r1", 'a');
  const std::unique_ptr<Sequence> look = Look("a");
  Load(look.get());
  ASSERT_TRUE(store_->Delete(Named("a")).ok());
  keeper_->ReclaimSlots();
  ExpectState(keeper_->SlotToRead(*look), 'a');
  EXPECT_EQ(states_->free_slots(), 0);
  RunRow(look.get(), 'b');
  EXPECT_EQ(states_->free_slots(), 1);
  ExpectState(look->slot, 'b');
  keeper_->Release(look.get());
  EXPECT_EQ(states_->free_slots(), kSlots);
  EXPECT_EQ(backend_->copies(), 0);
}

TEST_F(StateKeeperTest, TakesTheSlotOfADeletedSessionFromWhoReadsItIfItMust) {
  Start();
  RunTurn("a", "r1", 'a');
  const std::unique_ptr<Sequence> look = Look("a");
  Load(look.get());
  ASSERT_TRUE(store_->Delete(Named("a")).ok());
  const std::unique_ptr<Sequence> turn = Begin("b", "r1");
  Load(turn.get());
  EXPECT_EQ(backend_->copies(), 1);
  EXPECT_EQ(keeper_->SlotToRead(*look), look->slot);
  ExpectState(look->slot, 'a');
  ExpectState(turn->slot, '\0');
  keeper_->Release(look.get());
  keeper_->Release(turn.get());
  EXPECT_EQ(states_->free_slots(), kSlots);
}

TEST_F(StateKeeperTest, GivesBackWhatASequenceNeverCameToRead) {
  Start();
  RunTurn("a", "r1", 'a');
  const std::unique_ptr<Sequence> look = Look("a");
  Load(look.get());
  ASSERT_TRUE(store_->Delete(Named("a")).ok());
  keeper_->ReclaimSlots();
  keeper_->Release(look.get());
  EXPECT_EQ(states_->free_slots(), kSlots);
}

// --- Spare slots.

TEST_F(StateKeeperTest, ASequenceLeavesItsStatesInTwoSlotsByTurns) {
  Start();
  const std::unique_ptr<Sequence> turn = Begin("a", "r1");
  Load(turn.get());
  EXPECT_EQ(keeper_->SpareSlot(*turn), -1);
  ASSERT_TRUE(*keeper_->TryTakeSpare(*turn));
  ASSERT_TRUE(*keeper_->TryTakeSpare(*turn)) << "it has one";
  const int first = turn->slot;
  const int second = keeper_->SpareSlot(*turn);
  EXPECT_EQ(keeper_->spare_slots(), 1);
  RunRow(turn.get(), first, 'a');
  EXPECT_EQ(turn->slot, first);
  RunRow(turn.get(), second, 'b');
  EXPECT_EQ(turn->slot, second);
  EXPECT_EQ(keeper_->SpareSlot(*turn), first);
  EXPECT_EQ(keeper_->SlotToRead(*turn), second);
  EXPECT_TRUE(Keep(turn.get()));
  EXPECT_EQ(keeper_->spare_slots(), 0);
  EXPECT_EQ(states_->free_slots(), kSlots - 1);
  ExpectState(store_->Locate(turn->session)->slot, 'b');
}

TEST_F(StateKeeperTest, GivesBackBothSlotsOfASequence) {
  Start();
  const std::unique_ptr<Sequence> turn = Begin("a", "r1");
  Load(turn.get());
  ASSERT_TRUE(*keeper_->TryTakeSpare(*turn));
  keeper_->Release(turn.get());
  EXPECT_EQ(keeper_->spare_slots(), 0);
  EXPECT_EQ(states_->free_slots(), kSlots);
}

TEST_F(StateKeeperTest, OnlyAnIdleStateMakesWayForASpareSlot) {
  Start();
  RunTurn("a", "r1", 'a');
  const std::unique_ptr<Sequence> turn = Begin("b", "r1");
  Load(turn.get());
  ASSERT_TRUE(*keeper_->TryTakeSpare(*turn));
  EXPECT_EQ(TierOf("a"), "ram");
  const std::unique_ptr<Sequence> other = Begin("c", "r1");
  Load(other.get());
  EXPECT_FALSE(*keeper_->TryTakeSpare(*turn));
  EXPECT_FALSE(*keeper_->TryTakeSpare(*other));
}

TEST_F(StateKeeperTest, WhoWantsASlotOfItsOwnTakesASpareOneFirst) {
  Start();
  const std::unique_ptr<Sequence> turn = Begin("a", "r1");
  Load(turn.get());
  ASSERT_TRUE(*keeper_->TryTakeSpare(*turn));
  RunRow(turn.get(), keeper_->SpareSlot(*turn), 'a');
  const std::unique_ptr<Sequence> other = Begin("b", "r1");
  Load(other.get());
  EXPECT_EQ(keeper_->SpareSlot(*turn), -1);
  EXPECT_EQ(keeper_->spare_slots(), 0);
  EXPECT_NE(other->slot, turn->slot);
  ExpectState(turn->slot, 'a');
}

TEST_F(StateKeeperTest, MovesTheLeastRecentlyUsedToRamAndBack) {
  Start();
  RunTurn("a", "r1", 'a');
  RunTurn("b", "r1", 'b');
  RunTurn("c", "r1", 'c');
  EXPECT_EQ(TierOf("a"), "ram");
  EXPECT_EQ(TierOf("b"), "slot");
  EXPECT_EQ(TierOf("c"), "slot");
  const std::unique_ptr<Sequence> turn = Begin("a", "r2");
  Load(turn.get());
  ExpectState(turn->slot, 'a');
  EXPECT_EQ(TierOf("b"), "ram");
  EXPECT_EQ(store_->Counts().models[0].restores, 1);
  keeper_->Release(turn.get());
}

TEST_F(StateKeeperTest, CountsWhatItMoves) {
  Start();
  const size_t before = keeper_->moved_bytes();
  RunTurn("a", "r1", 'a');
  RunTurn("b", "r1", 'b');
  EXPECT_EQ(keeper_->moved_bytes() - before, 2 * kStateBytes);
  // Another one moves out of its way.
  RunTurn("c", "r1", 'c');
  EXPECT_EQ(keeper_->moved_bytes() - before, 4 * kStateBytes);
}

TEST_F(StateKeeperTest, CancelsATurnWhoseSessionWasDeletedBeforeItLoads) {
  Start();
  const std::unique_ptr<Sequence> turn = Begin("a", "r1");
  ASSERT_TRUE(store_->Delete(Named("a")).ok());
  EXPECT_EQ(keeper_->TryLoad(turn.get()).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(turn->slot, -1);
  EXPECT_EQ(states_->free_slots(), kSlots);
}

TEST_F(StateKeeperTest, KeepsNothingOfADeletedSession) {
  Start();
  const std::unique_ptr<Sequence> turn = Begin("a", "r1");
  Load(turn.get());
  ASSERT_TRUE(store_->Delete(Named("a")).ok());
  EXPECT_FALSE(Keep(turn.get()));
  EXPECT_GE(turn->slot, 0);
  keeper_->Release(turn.get());
  EXPECT_EQ(states_->free_slots(), kSlots);
}

// --- Parked.

TEST_F(StateKeeperTest, ParksAStateAndBringsItBack) {
  Start();
  const std::unique_ptr<Sequence> turn = Begin("a", "r1");
  Load(turn.get());
  Write(turn->slot, 'p');
  ASSERT_TRUE(keeper_->TryPark(turn.get()).value());
  EXPECT_EQ(turn->slot, -1);
  EXPECT_EQ(states_->free_slots(), kSlots);
  EXPECT_EQ(store_->Counts().parked_bytes, kStateBytes);
  RunTurn("b", "r1", 'b');
  RunTurn("c", "r1", 'c');
  ASSERT_TRUE(keeper_->TryUnpark(turn.get()).value());
  ExpectState(turn->slot, 'p');
  EXPECT_EQ(turn->parked_state, nullptr);
  EXPECT_EQ(store_->Counts().parked_bytes, 0);
  keeper_->Release(turn.get());
}

TEST_F(StateKeeperTest, ParksWhatHasNotRunWithTheStateThatItWouldRead) {
  Start();
  RunTurn("a", "r1", 'a');
  const std::unique_ptr<Sequence> turn = Begin("a", "r2");
  Load(turn.get());
  ASSERT_TRUE(keeper_->TryPark(turn.get()).value());
  EXPECT_EQ(states_->free_slots(), kSlots - 1);
  ASSERT_TRUE(keeper_->TryUnpark(turn.get()).value());
  EXPECT_EQ(keeper_->SlotToRead(*turn), turn->slot);
  ExpectState(turn->slot, 'a');
  keeper_->Release(turn.get());
}

TEST_F(StateKeeperTest, KeepsAParkedStateInRam) {
  Start();
  const std::unique_ptr<Sequence> turn = Begin("a", "r1");
  Load(turn.get());
  Write(turn->slot, 'p');
  ASSERT_TRUE(keeper_->TryPark(turn.get()).value());
  ASSERT_TRUE(Keep(turn.get()));
  EXPECT_EQ(TierOf("a"), "ram");
  EXPECT_EQ(store_->Counts().parked_bytes, 0);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(
                            store_->Locate(turn->session)->block->data()),
                        kStateBytes),
            std::string(kStateBytes, 'p'));
}

TEST_F(StateKeeperTest, LeavesTheSlotWhereRamHasNoRoomForIt) {
  // Parked states may take a quarter.
  Start(/*memory_bytes=*/4 * kStateBytes - 1);
  auto sequence =
      std::make_unique<Sequence>(TestEngine::Generate({1}, 1), nullptr,
                                 std::make_shared<TokenStream>(8, [] {}));
  Load(sequence.get());
  EXPECT_FALSE(keeper_->TryPark(sequence.get()).value());
  EXPECT_GE(sequence->slot, 0);
  keeper_->Release(sequence.get());
  EXPECT_EQ(states_->free_slots(), kSlots);
}

TEST_F(StateKeeperTest, GivesBackTheRamOfWhatEndsWhileItIsParked) {
  Start();
  const std::unique_ptr<Sequence> turn = Begin("a", "r1");
  Load(turn.get());
  ASSERT_TRUE(keeper_->TryPark(turn.get()).value());
  keeper_->Release(turn.get());
  EXPECT_EQ(store_->Counts().parked_bytes, 0);
}

}  // namespace
}  // namespace engram
