// What the kernels of attention have in common: segments, where the keys and
// values of a sequence lie, and what a token sees.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/step_table.h"
#include "kernels/operations.h"

namespace engram::cuda {

constexpr int kBlockTokens = static_cast<int>(kKeyValueBlockTokens);
static_assert(kBlockTokens == 32, "a lane has a token of a block");
constexpr int kSegmentBlocks = 8;
constexpr int kSegmentKeys = kSegmentBlocks * kBlockTokens;
constexpr float kNoScore = -std::numeric_limits<float>::infinity();

// The keys [head_dim, kBlockTokens] and values [kBlockTokens, head_dim] of a
// head in block `index` of a row's sequence.
__device__ inline float* KeysOf(const StepTable& step,
                                const AttentionArguments& arguments,
                                const StepRow& row, int64_t index,
                                int64_t kv_head) {
  const int32_t block = Load(step.block_ids + row.first_block + index);
  return ShareAt(arguments.blocks, block) +
         kv_head * arguments.head_dim * kBlockTokens;
}
__device__ inline float* ValuesOf(const StepTable& step,
                                  const AttentionArguments& arguments,
                                  const StepRow& row, int64_t index,
                                  int64_t kv_head) {
  return KeysOf(step, arguments, row, index, arguments.kv_heads + kv_head);
}

// A few tokens of a row, by one head. Where there are fewer tokens than a
// kernel has room for, those behind are computed from zeros and lost.
struct Queries {
  StepRow row;
  int64_t token;     // the first, in the concatenation
  int64_t position;  // of the first
  int tokens;
  int64_t head, kv_head;

  // How many keys from `first_key` on token i sees, at most `most`.
  __device__ int Seen(int i, int64_t first_key, int most) const {
    const int64_t seen = position + i + 1 - first_key;
    return static_cast<int>(seen < 0 ? 0 : seen < most ? seen : most);
  }
  // So many segments have a key that the last token sees.
  __device__ int64_t Segments() const {
    return (position + tokens - 1) / kSegmentKeys + 1;
  }
  // Of a segment the blocks that the last token sees.
  __device__ int BlocksOf(int64_t segment) const {
    const int64_t last = (position + tokens - 1) / kBlockTokens;
    const int64_t blocks = last + 1 - segment * kSegmentBlocks;
    return static_cast<int>(blocks < kSegmentBlocks ? blocks : kSegmentBlocks);
  }
};

// `most` tokens from `time` on of a row, as many as there are.
__device__ inline Queries QueriesFrom(const AttentionArguments& arguments,
                                      const StepRow& row, int64_t time,
                                      int most, int64_t head) {
  const int64_t left = row.tokens - time;
  return {row,
          row.offset + time,
          row.position + time,
          static_cast<int>(left < most ? left : most),
          head,
          head / (arguments.heads / arguments.kv_heads)};
}

}  // namespace engram::cuda
