#include "kernels/cuda/step_parts.h"

#include "kernels/cuda/row_chunks.h"

namespace engram::cuda {

StepParts PartsOf(absl::Span<const Row> rows) {
  StepParts parts;
  for (const Row& row : rows) {
    const RowChunks cut = ChunksOf(row.position, row.tokens);
    parts.heads |= cut.head > 0 || cut.chunks == 0;
    parts.chunks |= cut.chunks > 0;
    parts.tails |= row.tokens > cut.head + cut.chunks * kChunkTokens;
  }
  return parts;
}

}  // namespace engram::cuda
