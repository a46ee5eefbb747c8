#include "model/state_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/status.h"

namespace engram {
namespace {

constexpr int kSlots = 3;

class StatePoolTest : public testing::Test {
 protected:
  StatePoolTest() {
    BackendOptions options;
    options.kind = BackendKind::kCpu;
    options.threads = 1;
    backend_ = std::move(MakeBackend(options).value());
    pool_ = std::move(
        StatePool::Create(
            backend_.get(),
            {{"window", 2, {3, 5}}, {"memory", 2, {7}}, {"last", 1, {4}}},
            kSlots)
            .value());
  }

  std::string Saved(int slot) const {
    std::string block(pool_->state_bytes(), '?');
    pool_->Save(slot, block.data());
    return block;
  }

  // A block in which every float differs.
  std::string Counted(float first) const {
    std::vector<float> values(pool_->state_bytes() / sizeof(float));
    for (float& value : values) value = first++;
    std::string block(pool_->state_bytes(), '?');
    std::memcpy(block.data(), values.data(), block.size());
    return block;
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<StatePool> pool_;
};

TEST_F(StatePoolTest, CountsTheBytesOfOneState) {
  EXPECT_EQ(pool_->state_bytes(), (2 * 15 + 2 * 7 + 4) * sizeof(float));
}

TEST_F(StatePoolTest, GivesEverySlotOnceAndThenNone) {
  std::set<int> slots;
  for (int i = 0; i < kSlots; ++i) {
    EXPECT_EQ(pool_->free_slots(), kSlots - i);
    slots.insert(pool_->Take());
  }
  EXPECT_EQ(slots, (std::set<int>{0, 1, 2}));
  EXPECT_EQ(pool_->Take(), -1);
  EXPECT_EQ(pool_->TakeForOverwrite(), -1);
  EXPECT_EQ(pool_->free_slots(), 0);
  pool_->Free(1);
  EXPECT_EQ(pool_->Take(), 1);
}

TEST_F(StatePoolTest, IsSavedInPartsOfAnySize) {
  pool_->Take();
  const int slot = pool_->Take();
  pool_->Restore(slot, Counted(1).data(), 0);
  for (size_t part = 1; part <= pool_->state_bytes(); ++part) {
    std::string block(pool_->state_bytes(), '?');
    for (size_t begin = 0; begin < block.size(); begin += part) {
      pool_->SavePart(slot, begin, std::min(part, block.size() - begin),
                      block.data() + begin);
    }
    ASSERT_EQ(block, Counted(1)) << part;
  }
}

TEST_F(StatePoolTest, AUsedSlotIsAllZeroBitsWhenItIsTakenAgain) {
  const int slot = pool_->Take();
  pool_->Restore(slot, std::string(pool_->state_bytes(), '\xff').data(), 0);
  pool_->Free(slot);
  ASSERT_EQ(pool_->Take(), slot);
  EXPECT_EQ(Saved(slot), std::string(pool_->state_bytes(), '\0'));
}

TEST_F(StatePoolTest, SavesWhatWasRestored) {
  const int first = pool_->Take();
  const int second = pool_->TakeForOverwrite();
  const int third = pool_->Take();
  pool_->Restore(first, Counted(1).data(), 0);
  pool_->Restore(second, Counted(100).data(), 0);
  EXPECT_EQ(Saved(first), Counted(1));
  EXPECT_EQ(Saved(second), Counted(100));
  EXPECT_EQ(Saved(third), std::string(pool_->state_bytes(), '\0'));
}

TEST_F(StatePoolTest, KeepsEveryBitEvenOfNan) {
  const int slot = pool_->Take();
  std::string block = Counted(1);
  const uint32_t signaling_nan = 0x7fa00001;
  std::memcpy(block.data() + 8, &signaling_nan, sizeof(signaling_nan));
  pool_->Restore(slot, block.data(), 0);
  EXPECT_EQ(Saved(slot), block);
}

TEST_F(StatePoolTest, CopiesOneSlotAndNoOther) {
  const int source = pool_->Take();
  const int target = pool_->Take();
  const int other = pool_->Take();
  pool_->Restore(source, Counted(1).data(), 0);
  pool_->CopySlot(target, source);
  EXPECT_EQ(Saved(source), Counted(1));
  EXPECT_EQ(Saved(target), Counted(1));
  EXPECT_EQ(Saved(other), std::string(pool_->state_bytes(), '\0'));
  pool_->CopySlot(target, target);
  EXPECT_EQ(Saved(target), Counted(1));
}

TEST_F(StatePoolTest, ClearsOneSlotAndNoOther) {
  const int slot = pool_->Take();
  const int other = pool_->Take();
  pool_->Restore(slot, Counted(1).data(), 0);
  pool_->Restore(other, Counted(100).data(), 0);
  pool_->Clear(slot);
  EXPECT_EQ(Saved(slot), std::string(pool_->state_bytes(), '\0'));
  EXPECT_EQ(Saved(other), Counted(100));
}

TEST_F(StatePoolTest, LaysALayerOfAllSlotsOutAsOneArray) {
  pool_->Take();
  const int slot = pool_->Take();
  pool_->Restore(slot, Counted(0).data(), 0);
  // A block holds the window's two layers, the memory's two, then the last.
  EXPECT_EQ(pool_->Layer(0, 1)[slot * 15 + 2], 15 + 2);
  EXPECT_EQ(pool_->Layer(1, 0)[slot * 7 + 6], 30 + 6);
  EXPECT_EQ(pool_->Layer(2, 0)[slot * 4 + 3], 44 + 3);
}

TEST_F(StatePoolTest, TellsHowMuchMemoryItDidNotGet) {
  const auto pool = StatePool::Create(
      backend_.get(), {{"memory", 1024, {1 << 20, 4096}}}, 1 << 20);
  EXPECT_EQ(pool.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(pool.status().message()),
              testing::HasSubstr("17592186044416 bytes"));
}

using StatePoolDeathTest = StatePoolTest;

TEST_F(StatePoolDeathTest, StopsAtASlotThatIsNotTaken) {
  const int slot = pool_->Take();
  pool_->Free(slot);
  EXPECT_DEATH(pool_->Free(slot), "broken invariant");
  EXPECT_DEATH(pool_->Free(kSlots), "broken invariant");
  EXPECT_DEATH(Saved(slot), "broken invariant");
}

}  // namespace
}  // namespace engram
