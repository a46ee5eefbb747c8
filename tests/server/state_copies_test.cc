#include "server/state_copies.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "tests/server/test_engine.h"
#include "tests/support/held_copies_backend.h"

namespace engram {
namespace {

constexpr int64_t kFloats = 64;
constexpr size_t kBytes = kFloats * sizeof(float);
constexpr int kSlots = 2;

class StateCopiesTest : public ::testing::Test {
 protected:
  StateCopiesTest()
      : cpu_(std::move(MakeBackend({BackendKind::kCpu, 1}).value())),
        backend_(cpu_.get()),
        states_(
            *StatePool::Create(&backend_, {{"memory", 1, {kFloats}}}, kSlots)),
        copies_(std::make_unique<StateCopies>(states_.get())) {}

  // A slot whose state is all `byte`.
  int Filled(char byte) {
    const int slot = states_->Take();
    ENGRAM_CHECK_OK(
        states_->Restore(slot, std::string(kBytes, byte).data(), 1));
    return slot;
  }
  static std::shared_ptr<StateBlock> Block(char byte) {
    auto block = MakeBlock(kBytes);
    std::fill_n(block->data(), kBytes, static_cast<std::byte>(byte));
    return block;
  }
  static std::string In(const StateBlock& block) {
    return std::string(reinterpret_cast<const char*>(block.data()),
                       block.size());
  }

  const std::unique_ptr<Backend> cpu_;
  HeldCopiesBackend backend_;
  const std::unique_ptr<StatePool> states_;
  std::unique_ptr<StateCopies> copies_;
};

TEST_F(StateCopiesTest, AreDoneAtOnceWhereThereIsNoQueue) {
  const int slot = Filled('a');
  const auto block = Block('?');
  const int64_t number = *copies_->BeginSave(slot, 0, kBytes, block);
  EXPECT_TRUE(copies_->IsDone(number));
  EXPECT_FALSE(copies_->IsBusy(slot));
  EXPECT_TRUE(copies_->empty());
  EXPECT_EQ(In(*block), std::string(kBytes, 'a'));
  copies_->Free(slot);
  EXPECT_EQ(states_->free_slots(), kSlots);
}

TEST_F(StateCopiesTest, ASlotIsNotFreeBeforeItsLastCopyIsDone) {
  const int slot = Filled('a');
  backend_.Hold();
  const auto first = Block('?');
  const auto second = Block('?');
  const int64_t number = *copies_->BeginSave(slot, 0, kBytes, first);
  ENGRAM_CHECK_OK(copies_->BeginSave(slot, 0, kBytes, second).status());
  copies_->Free(slot);
  EXPECT_EQ(copies_->slots_to_come(), 1);
  backend_.Complete(1);
  ENGRAM_CHECK_OK(copies_->Settle());
  EXPECT_TRUE(copies_->IsDone(number));
  EXPECT_TRUE(copies_->IsBusy(slot));
  EXPECT_EQ(states_->free_slots(), kSlots - 1);
  backend_.Complete(1);
  ENGRAM_CHECK_OK(copies_->Settle());
  EXPECT_EQ(copies_->slots_to_come(), 0);
  EXPECT_EQ(states_->free_slots(), kSlots);
  EXPECT_EQ(In(*second), std::string(kBytes, 'a'));
  EXPECT_EQ(backend_.waits(), 0);
}

TEST_F(StateCopiesTest, ABlockLivesUntilItIsCopied) {
  const int slot = Filled('a');
  backend_.Hold();
  std::shared_ptr<StateBlock> block = Block('b');
  const std::weak_ptr<StateBlock> lives = block;
  ENGRAM_CHECK_OK(copies_->BeginRestore(slot, std::move(block), 1).status());
  EXPECT_FALSE(lives.expired());
  EXPECT_TRUE(copies_->IsBusy(slot));
  ENGRAM_CHECK_OK(copies_->Wait());
  EXPECT_EQ(backend_.waits(), 1);
  EXPECT_TRUE(lives.expired());
  std::string state(kBytes, '?');
  ENGRAM_CHECK_OK(states_->Save(slot, state.data()));
  EXPECT_EQ(state, std::string(kBytes, 'b'));
}

TEST_F(StateCopiesTest, AreWaitedForWhenTheyEnd) {
  const int slot = Filled('a');
  const auto block = Block('?');
  backend_.Hold();
  ENGRAM_CHECK_OK(copies_->BeginSave(slot, 0, kBytes, block).status());
  copies_ = nullptr;
  EXPECT_EQ(In(*block), std::string(kBytes, 'a'));
}

TEST_F(StateCopiesTest, AFailedDeviceHoldsNoSlot) {
  const int first = Filled('a');
  const int second = Filled('b');
  backend_.Hold();
  const int64_t number = *copies_->BeginSave(first, 0, kBytes, Block('?'));
  ENGRAM_CHECK_OK(copies_->BeginSave(second, 0, kBytes, Block('?')).status());
  copies_->Free(second);
  backend_.Fail();
  backend_.Complete(1);
  EXPECT_EQ(copies_->Settle().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(copies_->Settle().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(copies_->failure().code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(copies_->IsDone(number));
  EXPECT_FALSE(copies_->IsBusy(first));
  EXPECT_EQ(states_->free_slots(), 1);
}

}  // namespace
}  // namespace engram
