#include "server/model_capacity.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "model/key_value_pool.h"

namespace engram {
namespace {

// "40 tokens (10 of the session, 20 of the prompt, at most 10 to feed of the
// answer)".
std::string DescribeTokens(int64_t before, const Request& request) {
  const int64_t all = TokensInTheEnd(before, request);
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  return absl::StrCat(all, " tokens (", before, " of the session, ", prompt,
                      " of the prompt, ", all - before - prompt,
                      " of an answer of max_tokens)");
}

}  // namespace

size_t ModelCapacity::StateBytes(int64_t tokens) const {
  if (tokens == 0) return 0;
  return state_bytes + kv_block_bytes * KeyValueBlocks(tokens);
}

ModelCapacity CapacityOf(const ModelInfo& info) {
  return {.state_bytes = info.state_bytes,
          .kv_block_bytes = info.kv_block_bytes,
          .kv_blocks = info.kv_blocks,
          .max_positions = info.max_positions};
}

int64_t TokensInTheEnd(int64_t before, const Request& request) {
  // The last token of an answer stays pending.
  const int64_t answered =
      request.kind == RequestKind::kScore
          ? 0
          : std::max<int64_t>(0, request.stopping.max_tokens - 1);
  return before + static_cast<int64_t>(request.prompt.size()) + answered;
}

absl::Status CheckLength(const ModelCapacity& capacity, int64_t before,
                         const Request& request) {
  const int64_t tokens = TokensInTheEnd(before, request);
  if (capacity.max_positions > 0 && tokens > capacity.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the sequence could come to ", DescribeTokens(before, request),
        ", limit ", capacity.max_positions, ": the model has learned so many ",
        "positions"));
  }
  const int64_t blocks = KeyValueBlocks(tokens);
  if (capacity.kv_block_bytes > 0 && blocks > capacity.kv_blocks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the model's attention layers keep every token, and the sequence "
        "could ",
        "come to ", DescribeTokens(before, request), ", which take ",
        blocks * capacity.kv_block_bytes, " bytes, limit ",
        capacity.kv_blocks * capacity.kv_block_bytes, " (--kv-memory)"));
  }
  return absl::OkStatus();
}

}  // namespace engram
