#include "model/state_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/status.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/forwarding_backend.h"

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
    ENGRAM_CHECK_OK(pool_->Save(slot, block.data()));
    return block;
  }

  std::string SavedInParts(int slot, size_t part) const {
    std::string block(pool_->bytes(slot), '?');
    for (size_t begin = 0; begin < block.size(); begin += part) {
      const size_t bytes = std::min(part, block.size() - begin);
      const auto copied = std::move(
          pool_->BeginSavePart(slot, begin, bytes, block.data() + begin)
              .value());
      ENGRAM_CHECK_OK(copied->Wait());
    }
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
  // 2 * 15, 2 * 7 and 4 floats, each rounded up to 256 bytes.
  EXPECT_EQ(pool_->state_bytes(), 3 * kStateAlignment);
}

TEST_F(StatePoolTest, GivesEverySlotOnceAndThenNone) {
  std::set<int> slots;
  for (int i = 0; i < kSlots; ++i) {
    EXPECT_EQ(pool_->free_slots(), kSlots - i);
    slots.insert(pool_->Take());
  }
  EXPECT_EQ(slots, (std::set<int>{0, 1, 2}));
  EXPECT_EQ(pool_->Take(), -1);
  EXPECT_EQ(pool_->TryTake(1), -1);
  EXPECT_EQ(pool_->free_slots(), 0);
  pool_->Free(1);
  EXPECT_EQ(pool_->Take(), 1);
}

TEST_F(StatePoolTest, IsSavedInPartsOfAnySize) {
  pool_->Take();
  const int slot = pool_->Take();
  ENGRAM_CHECK_OK(pool_->Restore(slot, Counted(1).data(), 0));
  for (size_t part = 1; part <= pool_->state_bytes(); ++part) {
    ASSERT_EQ(SavedInParts(slot, part), Counted(1)) << part;
  }
}

TEST_F(StatePoolTest, AUsedSlotIsAllZeroBitsWhenItIsTakenAgain) {
  const int slot = pool_->Take();
  ENGRAM_CHECK_OK(pool_->Restore(
      slot, std::string(pool_->state_bytes(), '\xff').data(), 0));
  pool_->Free(slot);
  ASSERT_EQ(pool_->Take(), slot);
  EXPECT_EQ(Saved(slot), std::string(pool_->state_bytes(), '\0'));
}

TEST_F(StatePoolTest, SavesWhatWasRestored) {
  const int first = pool_->Take();
  const int second = pool_->TryTake(1);
  const int third = pool_->Take();
  ENGRAM_CHECK_OK(pool_->Restore(first, Counted(1).data(), 0));
  ENGRAM_CHECK_OK(pool_->Restore(second, Counted(100).data(), 0));
  EXPECT_EQ(Saved(first), Counted(1));
  EXPECT_EQ(Saved(second), Counted(100));
  EXPECT_EQ(Saved(third), std::string(pool_->state_bytes(), '\0'));
}

TEST_F(StatePoolTest, KeepsEveryBitEvenOfNan) {
  const int slot = pool_->Take();
  std::string block = Counted(1);
  const uint32_t signaling_nan = 0x7fa00001;
  std::memcpy(block.data() + 8, &signaling_nan, sizeof(signaling_nan));
  ENGRAM_CHECK_OK(pool_->Restore(slot, block.data(), 0));
  EXPECT_EQ(Saved(slot), block);
}

TEST_F(StatePoolTest, CopiesOneSlotAndNoOther) {
  const int source = pool_->Take();
  const int target = pool_->Take();
  const int other = pool_->Take();
  ENGRAM_CHECK_OK(pool_->Restore(source, Counted(1).data(), 0));
  ENGRAM_CHECK_OK(pool_->CopySlot(target, source));
  EXPECT_EQ(Saved(source), Counted(1));
  EXPECT_EQ(Saved(target), Counted(1));
  EXPECT_EQ(Saved(other), std::string(pool_->state_bytes(), '\0'));
  ENGRAM_CHECK_OK(pool_->CopySlot(target, target));
  EXPECT_EQ(Saved(target), Counted(1));
}

TEST_F(StatePoolTest, ClearsOneSlotAndNoOther) {
  const int slot = pool_->Take();
  const int other = pool_->Take();
  ENGRAM_CHECK_OK(pool_->Restore(slot, Counted(1).data(), 0));
  ENGRAM_CHECK_OK(pool_->Restore(other, Counted(100).data(), 0));
  ENGRAM_CHECK_OK(pool_->Clear(slot));
  EXPECT_EQ(Saved(slot), std::string(pool_->state_bytes(), '\0'));
  EXPECT_EQ(Saved(other), Counted(100));
}

TEST_F(StatePoolTest, LaysTheComponentsOfASlotOneBehindAnother) {
  pool_->Take();
  const int slot = pool_->Take();
  ENGRAM_CHECK_OK(pool_->Restore(slot, Counted(0).data(), 0));
  // A block holds the window's two layers, the memory's two, then the last;
  // each component begins at a multiple of 64 floats.
  EXPECT_EQ(pool_->Layer(0, 1)[slot][2], 15 + 2);
  EXPECT_EQ(pool_->Layer(1, 0)[slot][6], 64 + 6);
  EXPECT_EQ(pool_->Layer(1, 1)[slot][6], 64 + 7 + 6);
  EXPECT_EQ(pool_->Layer(2, 0)[slot][3], 128 + 3);
}

TEST_F(StatePoolTest, KnowsHowManyTokensWereFedToASlot) {
  const int slot = pool_->Take();
  EXPECT_EQ(pool_->tokens(slot), 0);
  ENGRAM_CHECK_OK(pool_->Append(slot, slot, 3));
  ENGRAM_CHECK_OK(pool_->Append(slot, slot, 4));
  EXPECT_EQ(pool_->tokens(slot), 7);
  const int copy = pool_->TryTake(9, slot);
  ENGRAM_CHECK_OK(pool_->CopySlot(copy, slot));
  EXPECT_EQ(pool_->tokens(copy), 7);
  ENGRAM_CHECK_OK(pool_->Restore(slot, Counted(0).data(), 5));
  EXPECT_EQ(pool_->tokens(slot), 5);
  ENGRAM_CHECK_OK(pool_->Clear(copy));
  EXPECT_EQ(pool_->tokens(copy), 0);
}

// Counts what a pool asks of its back end.
class CountedCopies final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyToHost(
      void* host, const void* source, size_t bytes) override {
    ++calls;
    return ForwardingBackend::BeginCopyToHost(host, source, bytes);
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyFromHost(
      void* target, const void* host, size_t bytes) override {
    ++calls;
    return ForwardingBackend::BeginCopyFromHost(target, host, bytes);
  }
  absl::Status Copy(void* target, const void* source, size_t bytes) override {
    ++calls;
    return ForwardingBackend::Copy(target, source, bytes);
  }
  absl::Status Zero(void* target, size_t bytes) override {
    ++calls;
    return ForwardingBackend::Zero(target, bytes);
  }

  int calls = 0;
};

TEST_F(StatePoolTest, MovesAStateOfMamba130mInOneCopy) {
  CountedCopies backend(backend_.get());
  const auto pool = std::move(StatePool::Create(&backend,
                                                {{"conv_state", 24, {3, 1536}},
                                                 {"ssm_state", 24, {16, 1536}},
                                                 {"last_hidden", 1, {768}}},
                                                kSlots)
                                  .value());
  const auto calls_of = [&](const auto& what) {
    backend.calls = 0;
    ENGRAM_CHECK_OK(what());
    return backend.calls;
  };
  const int slot = pool->Take();
  const int copy = pool->Take();
  std::string block(pool->bytes(slot), '?');
  EXPECT_EQ(block.size(), 4u * (24 * (3 + 16) * 1536 + 768));
  EXPECT_EQ(calls_of([&] { return pool->Save(slot, block.data()); }), 1);
  EXPECT_EQ(calls_of([&] { return pool->Restore(copy, block.data(), 1); }), 1);
  EXPECT_EQ(calls_of([&] { return pool->CopySlot(copy, slot); }), 1);
  EXPECT_EQ(calls_of([&] { return pool->Clear(copy); }), 1);
}

TEST_F(StatePoolTest, KnowsWhatAStepMakesOfASlotInAnother) {
  const int slot = pool_->Take();
  ENGRAM_CHECK_OK(pool_->Restore(slot, Counted(0).data(), 5));
  const int next = pool_->TryTake(9, slot);
  ENGRAM_CHECK_OK(pool_->Append(slot, next, 3));
  EXPECT_EQ(pool_->tokens(slot), 5);
  EXPECT_EQ(pool_->tokens(next), 8);
}

// --- With attention layers.

constexpr KeyValueShape kKeyValues = {.layers = 2, .width = 3};
constexpr int64_t kFull = kKeyValueBlockTokens;

class StatePoolWithKeyValuesTest : public StatePoolTest {
 protected:
  static constexpr int64_t kBlocks = 8;

  StatePoolWithKeyValuesTest() {
    pool_ = std::move(StatePool::Create(backend_.get(), {{"last", 1, {4}}},
                                        kSlots, kKeyValues,
                                        kBlocks * kKeyValues.block_bytes())
                          .value());
  }

  // A slot that was fed so many tokens, whose keys and values are all `value`.
  int Fed(int64_t tokens, float value) {
    const int slot = pool_->TryTake(tokens);
    ENGRAM_CHECK_OK(pool_->Clear(slot));
    ENGRAM_CHECK_OK(pool_->Append(slot, slot, tokens));
    for (int64_t layer = 0; layer < kKeyValues.layers; ++layer) {
      for (int32_t block : pool_->blocks_of(slot)) {
        std::fill_n(pool_->KeyValueLayer(layer)[block],
                    2 * kKeyValues.width * kFull, value + layer);
      }
    }
    return slot;
  }
};

TEST_F(StatePoolWithKeyValuesTest, TakesASlotOnlyWithTheBlocksThatItWillNeed) {
  const int slot = pool_->TryTake(5 * kFull);
  ASSERT_GE(slot, 0);
  EXPECT_EQ(pool_->key_values().reserved, 5);
  EXPECT_EQ(pool_->TryTake(3 * kFull + 1), -1);
  EXPECT_EQ(pool_->free_slots(), kSlots - 1);
  EXPECT_EQ(pool_->key_values().reserved, 5);
  EXPECT_GE(pool_->TryTake(3 * kFull), 0);
  EXPECT_EQ(pool_->key_values().available(), 0);
}

TEST_F(StatePoolWithKeyValuesTest, SetsNothingApartForWhatASlotWillShare) {
  const int source = Fed(4 * kFull + 1, 7);
  EXPECT_EQ(pool_->key_values().available(), 3);
  // Six blocks, of which four are full and shared.
  const int slot = pool_->TryTake(6 * kFull, source);
  ASSERT_GE(slot, 0);
  EXPECT_EQ(pool_->key_values().reserved, 2);
  ENGRAM_CHECK_OK(pool_->CopySlot(slot, source));
  ENGRAM_CHECK_OK(pool_->Append(slot, slot, 2 * kFull - 1));
  EXPECT_EQ(pool_->key_values().used, 7);
  EXPECT_EQ(pool_->key_values().reserved, 0);
}

TEST_F(StatePoolWithKeyValuesTest, SealedSlotsGiveBackWhatTheyDidNotNeed) {
  const int slot = pool_->TryTake(5 * kFull);
  ENGRAM_CHECK_OK(pool_->Clear(slot));
  ENGRAM_CHECK_OK(pool_->Append(slot, slot, kFull + 1));
  pool_->Seal(slot);
  EXPECT_EQ(pool_->key_values().reserved, 0);
  EXPECT_EQ(pool_->key_values().used, 2);
  pool_->Free(slot);
  EXPECT_EQ(pool_->key_values().available(), kBlocks);
}

TEST_F(StatePoolWithKeyValuesTest, TellsWhatWouldFitBesideOthers) {
  const int slot = pool_->TryTake(5 * kFull);
  ENGRAM_CHECK_OK(pool_->Clear(slot));
  const int idle = Fed(3 * kFull, 7);
  EXPECT_TRUE(pool_->FitsBeside({slot}, 3 * kFull));
  EXPECT_FALSE(pool_->FitsBeside({slot}, 3 * kFull + 1));
  EXPECT_TRUE(pool_->FitsBeside({slot}, 6 * kFull, idle));
  EXPECT_TRUE(pool_->FitsBeside({}, kBlocks * kFull));
}

TEST_F(StatePoolWithKeyValuesTest, AStepIntoAnotherSlotSharesFullBlocks) {
  const int slot = Fed(kFull + 3, 7);
  const std::string before = SavedInParts(slot, pool_->bytes(slot));
  const int next = pool_->TryTake(kFull + 5, slot);
  ENGRAM_CHECK_OK(pool_->Append(slot, next, 2));
  EXPECT_EQ(pool_->tokens(next), kFull + 5);
  EXPECT_EQ(pool_->blocks_of(next)[0], pool_->blocks_of(slot)[0]);
  const int32_t own = pool_->blocks_of(next)[1];
  EXPECT_NE(own, pool_->blocks_of(slot)[1]);
  // What the step writes, only its own slot sees.
  std::fill_n(pool_->KeyValueLayer(0)[own], 2 * kKeyValues.width * kFull, 99);
  EXPECT_EQ(SavedInParts(slot, pool_->bytes(slot)), before);
}

TEST_F(StatePoolWithKeyValuesTest, StepsToAndFroTakeNoMoreThanWasSetApart) {
  int before = pool_->TryTake(3 * kFull);
  int after = pool_->TryTake(3 * kFull);
  ASSERT_GE(pool_->TryTake(2 * kFull), 0);
  ASSERT_EQ(pool_->key_values().available(), 0);
  ENGRAM_CHECK_OK(pool_->Clear(before));
  ENGRAM_CHECK_OK(pool_->Clear(after));
  for (int64_t tokens = 4; tokens <= 3 * kFull; tokens += 4) {
    ENGRAM_CHECK_OK(pool_->Append(before, after, 4));
    EXPECT_EQ(pool_->tokens(after), tokens);
    EXPECT_GE(pool_->key_values().available(), 0);
    std::swap(before, after);
  }
}

TEST_F(StatePoolWithKeyValuesTest, TellsOfEveryCopyThatFails) {
  FaultyBackend backend(backend_.get());
  pool_ = std::move(StatePool::Create(&backend, {{"last", 1, {4}}}, kSlots,
                                      kKeyValues,
                                      kBlocks * kKeyValues.block_bytes())
                        .value());
  const int slot = Fed(kFull + 3, 7);
  const int other = pool_->TryTake(3 * kFull);
  std::string block(pool_->bytes(slot), '?');
  const std::vector<std::pair<int, std::function<absl::Status()>>> all = {
      {1, [&] { return pool_->Clear(other); }},
      {3, [&] { return pool_->CopySlot(other, slot); }},  // zeroes a block
      {3, [&] { return pool_->Save(slot, block.data()); }},
      // The state, and two blocks that are zeroed first.
      {5, [&] { return pool_->Restore(other, block.data(), kFull + 3); }},
      {1, [&] { return pool_->Append(other, other, kFull); }}};
  for (const auto& [calls, what] : all) {
    for (int n = 1; n <= calls; ++n) {
      backend.FailFrom(n);
      EXPECT_EQ(what().code(), absl::StatusCode::kInternal) << n;
    }
    backend.FailFrom(calls + 1);
    EXPECT_TRUE(what().ok());
  }
}

TEST_F(StatePoolWithKeyValuesTest, SavesAndRestoresKeysAndValuesWithTheState) {
  const int slot = Fed(kFull + 3, 7);
  const std::string saved = SavedInParts(slot, pool_->bytes(slot));
  EXPECT_EQ(saved.size(), pool_->state_bytes() + 2 * kKeyValues.block_bytes());
  for (size_t part : {1, 100, 255, 257, 3000}) {
    ASSERT_EQ(SavedInParts(slot, part), saved) << part;
  }
  const int other = pool_->TryTake(kFull + 3);
  ENGRAM_CHECK_OK(pool_->Restore(other, saved.data(), kFull + 3));
  EXPECT_EQ(pool_->tokens(other), kFull + 3);
  EXPECT_EQ(SavedInParts(other, 1000), saved);
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
