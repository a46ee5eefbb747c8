#include "server/state_snapshots.h"

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"

namespace engram {
namespace {

constexpr int64_t kFloats = int64_t{2} << 20;  // a state of 8 MiB
constexpr size_t kStateBytes = kFloats * sizeof(float);
constexpr int kSlots = 3;

// A store and the slots that its engine would have.
class StateSnapshotsTest : public ::testing::Test {
 protected:
  StateSnapshotsTest() {
    BackendOptions options;
    options.kind = BackendKind::kCpu;
    options.threads = 1;
    backend_ = *MakeBackend(options);
    states_ = *StatePool::Create(backend_.get(), {{"memory", 4, {kFloats / 4}}},
                                 kSlots);
  }

  void Start(size_t memory_bytes = size_t{1} << 30) {
    SessionLimits limits;
    limits.memory_bytes = memory_bytes;
    store_ = std::make_unique<SessionStore>(limits, &clock_);
    store_->AddModel("m", {.state_bytes = kStateBytes});
    copies_ = std::make_unique<StateCopies>(states_.get());
    snapshots_ =
        std::make_unique<StateSnapshots>(copies_.get(), store_.get(), kJobs);
  }

  // A turn that leaves a state which is all `byte`; its slot.
  int Commit(const std::string& id, const std::string& request_id, char byte) {
    for (int slot : store_->ReleasedSlots(0)) states_->Free(slot);
    const int slot = states_->Take();
    ENGRAM_CHECK_OK(
        states_->Restore(slot, std::string(kStateBytes, byte).data(), 1));
    CommitTurn(store_.get(), TestEngine::Turn(id, request_id, {1}, 1), slot);
    return slot;
  }

  using Snapshot = StateSnapshots::Snapshot;
  using Result = std::shared_ptr<std::optional<absl::StatusOr<Snapshot>>>;

  Result Add(const std::string& id) {
    auto result = std::make_shared<std::optional<absl::StatusOr<Snapshot>>>();
    snapshots_->Add(*store_->Find(Named(id)),
                    [result](absl::StatusOr<Snapshot> done) {
                      EXPECT_FALSE(result->has_value()) << "answered twice";
                      *result = std::move(done);
                    });
    return result;
  }

  static void ExpectState(const Result& result, int64_t version, char byte) {
    ASSERT_TRUE(result->has_value());
    ASSERT_TRUE((*result)->ok()) << (*result)->status();
    const Snapshot& snapshot = ***result;
    EXPECT_EQ(snapshot.turns.version, version);
    ASSERT_NE(snapshot.block, nullptr);
    ASSERT_EQ(snapshot.block->size(), kStateBytes);
    EXPECT_EQ(std::memcmp(snapshot.block->data(),
                          std::string(kStateBytes, byte).data(), kStateBytes),
              0);
  }

  static constexpr int kJobs = 500;
  FakeClock clock_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<StatePool> states_;
  std::unique_ptr<SessionStore> store_;
  std::unique_ptr<StateCopies> copies_;
  std::unique_ptr<StateSnapshots> snapshots_;
};

TEST_F(StateSnapshotsTest, CopiesAMegabyteAtATime) {
  Start();
  Commit("a", "r1", 'a');
  const Result copy = Add("a");
  int times = 1;
  while (*snapshots_->Advance()) ++times;
  ExpectState(copy, 1, 'a');
  EXPECT_GE(times, 8);
  EXPECT_LE(times, 9);
}

TEST_F(StateSnapshotsTest, CopiesOnceForAllWhoAsk) {
  Start();
  Commit("a", "r1", 'a');
  std::vector<Result> copies;
  for (int i = 0; i < 400; ++i) copies.push_back(Add("a"));
  int times = 1;
  while (*snapshots_->Advance()) ++times;
  // Answers count too, so that not all go between the same two steps.
  EXPECT_GE(times, 8 + 400 / 20);
  EXPECT_LE(times, 60);
  ExpectState(copies[0], 1, 'a');
  for (const Result& copy : copies) {
    EXPECT_EQ((***copy).block, (***copies[0]).block);
  }
}

TEST_F(StateSnapshotsTest, CopiesNothingThatLiesInRam) {
  Start();
  const int slot = Commit("a", "r1", 'a');
  auto block = MakeBlock(kStateBytes);
  ENGRAM_CHECK_OK(states_->Save(slot, block->data()));
  ASSERT_TRUE(store_->MoveToRam(*store_->Find(Named("a")), slot, block));
  const Result copy = Add("a");
  EXPECT_FALSE(*snapshots_->Advance());
  EXPECT_EQ((***copy).block, block);
}

TEST_F(StateSnapshotsTest, TellsThatNothingWasFed) {
  Start();
  ASSERT_TRUE(store_->Create(EmptySession("a")).ok());
  const Result copy = Add("a");
  EXPECT_FALSE(*snapshots_->Advance());
  EXPECT_EQ((***copy).block, nullptr);
  EXPECT_EQ((***copy).turns.version, 0);
}

TEST_F(StateSnapshotsTest, BeginsAgainWhenTheSessionHasGoneOn) {
  Start();
  Commit("a", "r1", 'a');
  const Result copy = Add("a");
  EXPECT_TRUE(*snapshots_->Advance());
  Commit("a", "r2", 'b');
  snapshots_->Finish();
  ExpectState(copy, 2, 'b');
}

TEST_F(StateSnapshotsTest, CatchesASessionThatNeverRests) {
  Start();
  Commit("a", "r0", 'a');
  const Result copy = Add("a");
  int turns = 1;
  while (*snapshots_->Advance() && turns < 20) {
    ++turns;
    Commit("a", absl::StrCat("r", turns), 'a' + turns);
  }
  EXPECT_LT(turns, 6);
  ExpectState(copy, turns, 'a' + turns);
}

TEST_F(StateSnapshotsTest, TakesWhatMovesToRamMeanwhile) {
  Start();
  const int slot = Commit("a", "r1", 'a');
  const Result copy = Add("a");
  EXPECT_TRUE(*snapshots_->Advance());
  auto block = MakeBlock(kStateBytes);
  ENGRAM_CHECK_OK(states_->Save(slot, block->data()));
  ASSERT_TRUE(store_->MoveToRam(*store_->Find(Named("a")), slot, block));
  EXPECT_FALSE(*snapshots_->Advance());
  EXPECT_EQ((***copy).block, block);
}

TEST_F(StateSnapshotsTest, TellsThatTheSessionWasDeletedMeanwhile) {
  Start();
  Commit("a", "r1", 'a');
  const Result copy = Add("a");
  EXPECT_TRUE(*snapshots_->Advance());
  ASSERT_TRUE(store_->Delete(Named("a")).ok());
  EXPECT_FALSE(*snapshots_->Advance());
  EXPECT_EQ((*copy)->status().code(), absl::StatusCode::kNotFound);
}

TEST_F(StateSnapshotsTest, KeepsNoCopyThatWouldTakeMoreThanThereIs) {
  Start(/*memory_bytes=*/kStateBytes + (64 << 10));
  Commit("a", "r1", 'a');
  const Result first = Add("a");
  snapshots_->Finish();
  // It fits, and is the store's from now on.
  EXPECT_EQ(store_->Locate(*store_->Find(Named("a")))->block, (***first).block);
  EXPECT_EQ(store_->Counts().models[0].state_bytes_in_ram, kStateBytes);
  // A second one does not.
  Commit("b", "r1", 'b');
  Add("b");
  snapshots_->Finish();
  EXPECT_EQ(store_->Locate(*store_->Find(Named("b")))->block, nullptr);
  EXPECT_LE(store_->Counts().ram_bytes, store_->limits().memory_bytes);
}

TEST_F(StateSnapshotsTest, RefusesMoreThanMayWait) {
  Start();
  Commit("a", "r1", 'a');
  for (int i = 0; i < kJobs; ++i) Add("a");
  const Result refused = Add("a");
  ASSERT_TRUE(refused->has_value());
  EXPECT_EQ((*refused)->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string((*refused)->status().message()),
              ::testing::HasSubstr("500 copies wait, limit 500 (--max-queue)"));
  snapshots_->Finish();
}

}  // namespace
}  // namespace engram
