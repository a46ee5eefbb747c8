// ModelCapacity: what a session of a model costs and how long it may become;
// arithmetic on numbers that are known when the model is loaded, so that a
// request is accepted or refused before anything runs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "model/model.h"
#include "server/request.h"

namespace engram {

struct ModelCapacity {
  size_t state_bytes = 0;
  // Of a model with attention layers, else 0: what they take for every
  // kKeyValueBlockTokens tokens, and how many such blocks there are.
  size_t kv_block_bytes = 0;
  int64_t kv_blocks = 0;
  int64_t max_positions = 0;  // 0: no limit

  // The state of a sequence that was fed `tokens`; 0 if none were.
  size_t StateBytes(int64_t tokens) const;
};

ModelCapacity CapacityOf(const ModelInfo& info);

// The tokens that a sequence has been fed, at most, when `request` ends; it
// begins with `before` of them, a pending one included.
int64_t TokensInTheEnd(int64_t before, const Request& request);

// INVALID_ARGUMENT if that many can never be: more than the model has
// positions, or than its attention layers have memory for.
absl::Status CheckLength(const ModelCapacity& capacity, int64_t before,
                         const Request& request);

}  // namespace engram
