// MemoryPlan: what a model folder will take in memory, told before anything is
// taken (ModelFolder::Plan).
#pragma once

#include <cstddef>

namespace engram {

// Bytes. Sums that do not fit are the largest size_t.
struct MemoryPlan {
  size_t weights = 0;
  size_t states = 0;      // of all slots
  size_t key_values = 0;  // of attention layers
  // Activations of a step of max_batch_tokens, and what sampling works in.
  size_t buffers = 0;
  size_t logits = 0;  // of max_logits_rows

  size_t total() const;
};

}  // namespace engram
