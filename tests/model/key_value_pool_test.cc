#include "model/key_value_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/status.h"

namespace engram {
namespace {

constexpr int kSlots = 4;
constexpr int64_t kBlocks = 8;
constexpr KeyValueShape kShape = {.layers = 2, .width = 3};
constexpr int64_t kFull = kKeyValueBlockTokens;

class KeyValuePoolTest : public testing::Test {
 protected:
  KeyValuePoolTest() {
    BackendOptions options;
    options.kind = BackendKind::kCpu;
    options.threads = 1;
    backend_ = std::move(MakeBackend(options).value());
    pool_ = std::move(KeyValuePool::Create(backend_.get(), kShape,
                                           kBlocks * kShape.block_bytes() + 1,
                                           kSlots)
                          .value());
  }

  // Writes `value` over all that the slot holds.
  void Fill(int slot, float value) {
    for (int64_t layer = 0; layer < kShape.layers; ++layer) {
      for (int32_t block : pool_->blocks_of(slot)) {
        float* const piece = pool_->Layer(layer)[block];
        std::fill(piece, piece + kPieceFloats, value + layer);
      }
    }
  }

  std::string Saved(int slot) const {
    std::string bytes(pool_->bytes(slot), '?');
    ENGRAM_CHECK_OK(
        (*pool_->BeginSavePart(slot, 0, bytes.size(), bytes.data()))->Wait());
    return bytes;
  }

  static constexpr int64_t kPieceFloats = 2 * kShape.width * kFull;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<KeyValuePool> pool_;
};

TEST_F(KeyValuePoolTest, CountsBytesByTokenAndBlock) {
  EXPECT_EQ(kShape.token_bytes(), 2 * 2 * 3 * sizeof(float));
  EXPECT_EQ(kShape.block_bytes(), 32 * kShape.token_bytes());
  EXPECT_EQ(KeyValueBlocks(0), 0);
  EXPECT_EQ(KeyValueBlocks(1), 1);
  EXPECT_EQ(KeyValueBlocks(32), 1);
  EXPECT_EQ(KeyValueBlocks(33), 2);
  EXPECT_EQ(pool_->use().blocks, kBlocks);
}

TEST_F(KeyValuePoolTest, RefusesLessMemoryThanABlock) {
  const auto pool = KeyValuePool::Create(backend_.get(), kShape,
                                         kShape.block_bytes() - 1, kSlots);
  EXPECT_EQ(pool.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(pool.status().message()),
              testing::AllOf(testing::HasSubstr("1535 bytes"),
                             testing::HasSubstr("1536")));
}

TEST_F(KeyValuePoolTest, TakesABlockWithTheFirstTokenThatNeedsIt) {
  ENGRAM_CHECK_OK(pool_->Append(0, 1));
  EXPECT_EQ(pool_->blocks_of(0).size(), 1u);
  ENGRAM_CHECK_OK(pool_->Append(0, kFull - 1));
  EXPECT_EQ(pool_->blocks_of(0).size(), 1u);
  ENGRAM_CHECK_OK(pool_->Append(0, kFull + 1));
  EXPECT_EQ(pool_->blocks_of(0).size(), 3u);
  EXPECT_EQ(pool_->tokens(0), 2 * kFull + 1);
  EXPECT_EQ(pool_->use().used, 3);
  pool_->Free(0);
  EXPECT_EQ(pool_->use().used, 0);
  EXPECT_EQ(pool_->tokens(0), 0);
}

TEST_F(KeyValuePoolTest, NobodyElseGetsReservedBlocks) {
  EXPECT_TRUE(pool_->Reserve(0, 5));
  EXPECT_EQ(pool_->use().available(), 3);
  EXPECT_FALSE(pool_->Reserve(1, 4));
  EXPECT_EQ(pool_->use().available(), 3);
  EXPECT_TRUE(pool_->Reserve(1, 3));
  ENGRAM_CHECK_OK(pool_->Append(0, 5 * kFull));
  ENGRAM_CHECK_OK(pool_->Append(1, 3 * kFull));
  EXPECT_EQ(pool_->use().used, kBlocks);
  EXPECT_EQ(pool_->use().available(), 0);
}

TEST_F(KeyValuePoolTest, WhatWasReservedAndNotTakenComesBack) {
  ASSERT_TRUE(pool_->Reserve(0, 5));
  ENGRAM_CHECK_OK(pool_->Append(0, kFull + 1));
  EXPECT_EQ(pool_->use().available(), 3);
  pool_->EndReservation(0);
  EXPECT_EQ(pool_->use().available(), 6);
  ASSERT_TRUE(pool_->Reserve(0, 6));
  pool_->Free(0);
  EXPECT_EQ(pool_->use().available(), kBlocks);
}

TEST_F(KeyValuePoolTest, ABlockWhoseTokensAreTakenBackIsReservedAgain) {
  ASSERT_TRUE(pool_->Reserve(0, 2));
  ENGRAM_CHECK_OK(pool_->Append(0, kFull));
  ENGRAM_CHECK_OK(pool_->Append(0, 1));
  ASSERT_EQ(pool_->blocks_of(0).size(), 2);
  pool_->TakeBack(0, 1);
  EXPECT_EQ(pool_->blocks_of(0).size(), 1);
  EXPECT_EQ(pool_->use().used, 1);
  EXPECT_EQ(pool_->use().reserved, 1);
  pool_->TakeBack(0, kFull - 1);
  EXPECT_EQ(pool_->blocks_of(0).size(), 1) << "one token is left in it";
  ENGRAM_CHECK_OK(pool_->Append(0, kFull));
  EXPECT_EQ(pool_->use().reserved, 0);
}

TEST_F(KeyValuePoolTest, ClearKeepsTheReservation) {
  ASSERT_TRUE(pool_->Reserve(0, 4));
  pool_->Clear(0);
  EXPECT_EQ(pool_->use().available(), kBlocks - 4);
}

TEST_F(KeyValuePoolTest, ACopySharesFullBlocksAndOwnsTheLast) {
  ENGRAM_CHECK_OK(pool_->Append(0, 2 * kFull + 5));
  Fill(0, 7);
  ENGRAM_CHECK_OK(pool_->Copy(1, 0));
  EXPECT_EQ(pool_->use().used, 4);
  EXPECT_EQ(pool_->tokens(1), 2 * kFull + 5);
  EXPECT_EQ(Saved(1), Saved(0));
  const auto source = pool_->blocks_of(0);
  const auto copy = pool_->blocks_of(1);
  EXPECT_EQ(copy[0], source[0]);
  EXPECT_EQ(copy[1], source[1]);
  EXPECT_NE(copy[2], source[2]);
}

TEST_F(KeyValuePoolTest, ACopyOfFullBlocksOnlyTakesNone) {
  ENGRAM_CHECK_OK(pool_->Append(0, 2 * kFull));
  ENGRAM_CHECK_OK(pool_->Copy(1, 0));
  EXPECT_EQ(pool_->use().used, 2);
  ENGRAM_CHECK_OK(pool_->Append(1, 1));
  EXPECT_EQ(pool_->use().used, 3);
}

TEST_F(KeyValuePoolTest, ASharedBlockIsFreeOnlyWhenNobodyHoldsIt) {
  ENGRAM_CHECK_OK(pool_->Append(0, kFull));
  Fill(0, 7);
  const std::string before = Saved(0);
  ENGRAM_CHECK_OK(pool_->Copy(1, 0));
  ENGRAM_CHECK_OK(pool_->Copy(2, 1));
  pool_->Free(0);
  pool_->Free(1);
  EXPECT_EQ(pool_->use().used, 1);
  EXPECT_EQ(Saved(2), before);
  pool_->Free(2);
  EXPECT_EQ(pool_->use().used, 0);
}

TEST_F(KeyValuePoolTest, ACopyTakesItsOwnBlockFromItsReservation) {
  ENGRAM_CHECK_OK(pool_->Append(0, kFull + 1));
  ASSERT_TRUE(pool_->Reserve(1, kBlocks - 2));
  EXPECT_EQ(pool_->use().available(), 0);
  ENGRAM_CHECK_OK(pool_->Copy(1, 0));
  EXPECT_EQ(pool_->use().available(), 0);
  ENGRAM_CHECK_OK(pool_->Append(1, (kBlocks - 2) * kFull - 1));
  EXPECT_EQ(pool_->use().used, kBlocks);
}

TEST_F(KeyValuePoolTest, SavesWhatWasRestored) {
  ENGRAM_CHECK_OK(pool_->Append(0, kFull + 3));
  Fill(0, 5);
  const std::string bytes = Saved(0);
  EXPECT_EQ(bytes.size(), 2 * kShape.block_bytes());
  ENGRAM_CHECK_OK(pool_->Append(1, 9));
  ENGRAM_CHECK_OK((*pool_->BeginRestore(1, bytes.data(), kFull + 3))->Wait());
  EXPECT_EQ(Saved(1), bytes);
  EXPECT_EQ(pool_->tokens(1), kFull + 3);
  EXPECT_EQ(pool_->use().used, 4);
}

TEST_F(KeyValuePoolTest, AUsedBlockIsAllZeroBitsWhenItIsTakenAgain) {
  ENGRAM_CHECK_OK(pool_->Append(0, kBlocks * kFull));
  Fill(0, 5);
  pool_->Free(0);
  ENGRAM_CHECK_OK(pool_->Append(1, 1));
  EXPECT_EQ(Saved(1), std::string(kShape.block_bytes(), '\0'));
}

using KeyValuePoolDeathTest = KeyValuePoolTest;

TEST_F(KeyValuePoolDeathTest, StopsAtATokenBeyondWhatIsAvailable) {
  ASSERT_TRUE(pool_->Reserve(0, kBlocks - 1));
  EXPECT_DEATH((void)pool_->Append(1, kFull + 1), "broken invariant");
}

}  // namespace
}  // namespace engram
