#include "server/model_capacity.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "model/key_value_pool.h"

namespace engram {
namespace {

Request Turn(int prompt_tokens, int64_t max_tokens) {
  Request request;
  request.prompt.assign(prompt_tokens, 1);
  request.stopping.max_tokens = max_tokens;
  return request;
}

bool Names(const absl::Status& status, absl::string_view text) {
  return absl::StrContains(status.message(), text);
}

TEST(ModelCapacity, IsWhatTheModelTells) {
  ModelInfo info;
  info.state_bytes = 1;
  info.kv_block_bytes = 2;
  info.kv_blocks = 3;
  info.max_positions = 4;
  const ModelCapacity capacity = CapacityOf(info);
  EXPECT_EQ(capacity.state_bytes, 1u);
  EXPECT_EQ(capacity.kv_block_bytes, 2u);
  EXPECT_EQ(capacity.kv_blocks, 3);
  EXPECT_EQ(capacity.max_positions, 4);
}

TEST(ModelCapacity, AStateGrowsByBlocksOfAttentionOnly) {
  ModelCapacity capacity = {.state_bytes = 1000};
  EXPECT_EQ(capacity.StateBytes(0), 0u);
  EXPECT_EQ(capacity.StateBytes(1), 1000u);
  EXPECT_EQ(capacity.StateBytes(1'000'000), 1000u);
  capacity.kv_block_bytes = 10;
  EXPECT_EQ(capacity.StateBytes(0), 0u);
  EXPECT_EQ(capacity.StateBytes(kKeyValueBlockTokens), 1010u);
  EXPECT_EQ(capacity.StateBytes(kKeyValueBlockTokens + 1), 1020u);
}

TEST(ModelCapacity, ATurnFeedsAllButTheLastTokenOfItsAnswer) {
  EXPECT_EQ(TokensInTheEnd(0, Turn(10, 5)), 14);
  EXPECT_EQ(TokensInTheEnd(7, Turn(10, 5)), 21);
  EXPECT_EQ(TokensInTheEnd(7, Turn(10, 1)), 17);
  EXPECT_EQ(TokensInTheEnd(7, Turn(10, 0)), 17);
}

TEST(ModelCapacity, AScoreFeedsItsPromptOnly) {
  Request score = Turn(10, 5);
  score.kind = RequestKind::kScore;
  EXPECT_EQ(TokensInTheEnd(7, score), 17);
}

TEST(ModelCapacity, ARecurrentModelHasNoLimit) {
  const ModelCapacity capacity = {.state_bytes = 1000};
  EXPECT_TRUE(CheckLength(capacity, int64_t{1} << 40, Turn(10, 1 << 30)).ok());
}

TEST(ModelCapacity, RefusesWhatCouldOutgrowThePositions) {
  const ModelCapacity capacity = {.state_bytes = 1000, .max_positions = 20};
  EXPECT_TRUE(CheckLength(capacity, 6, Turn(10, 5)).ok());
  const absl::Status status = CheckLength(capacity, 7, Turn(10, 5));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Names(status,
                    "21 tokens (7 of the session, 10 of the prompt, 4 of an "
                    "answer of max_tokens), limit 20"))
      << status;
}

TEST(ModelCapacity, RefusesWhatCouldOutgrowTheBlocks) {
  const ModelCapacity capacity = {
      .state_bytes = 1000, .kv_block_bytes = 10, .kv_blocks = 2};
  const int64_t room = 2 * kKeyValueBlockTokens;
  EXPECT_TRUE(CheckLength(capacity, room - 10, Turn(10, 1)).ok());
  const absl::Status status = CheckLength(capacity, room - 10, Turn(10, 2));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Names(status, "which take 30 bytes, limit 20 (--kv-memory)"))
      << status;
}

}  // namespace
}  // namespace engram
