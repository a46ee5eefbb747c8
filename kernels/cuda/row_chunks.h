// RowChunks: which of a row's tokens are whole chunks of its sequence. A chunk
// is kChunkTokens tokens from a multiple of that position on, so that where
// chunks lie does not depend on how the sequence is cut into rows.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/step_table.h"

namespace engram::cuda {

constexpr int kChunkTokens = 64;

// A row is its head, whole chunks, and its tail, which is less than a chunk; a
// row that holds no whole chunk is all head.
struct RowChunks {
  int64_t head = 0;    // tokens
  int64_t chunks = 0;  // of kChunkTokens
};

// How many of the row's tokens go through chunks or come before them.
__host__ __device__ inline RowChunks ChunksOf(int64_t position,
                                              int64_t tokens) {
  const int64_t behind_border = position % kChunkTokens;
  const int64_t head = behind_border == 0 ? 0 : kChunkTokens - behind_border;
  if (tokens < head + kChunkTokens) return {tokens, 0};
  return {head, (tokens - head) / kChunkTokens};
}

// What a kernel does of each row: all tokens, or those that are not in whole
// chunks, in front of them and behind.
enum class RowPart { kAll, kHead, kTail };

// The part of `row` as a row of its own. The tail begins with the state that
// the chunks have left; a part that is nothing leaves its slot as it is.
__device__ inline StepRow PartOf(StepRow row, RowPart part) {
  if (part == RowPart::kAll) return row;
  const RowChunks cut = ChunksOf(row.position, row.tokens);
  if (part == RowPart::kHead) {
    row.tokens = static_cast<int32_t>(cut.head);
    if (cut.chunks > 0 && cut.head == 0) row.slot_out = row.slot_in;
    return row;
  }
  const int64_t before =
      cut.chunks == 0 ? row.tokens : cut.head + cut.chunks * kChunkTokens;
  row.slot_in = row.slot_out;
  row.tokens -= static_cast<int32_t>(before);
  row.offset += static_cast<int32_t>(before);
  row.position += before;
  return row;
}

}  // namespace engram::cuda
