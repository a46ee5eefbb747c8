// MemoryPlan: what a model folder will take in memory, told before anything is
// taken (ModelFolder::Plan).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"

namespace engram {

// Bytes of the back end's memory, with what its pieces are rounded up to: what
// Backend::device_memory() says that is used once the model is loaded, neither
// more nor less. Sums that do not fit are the largest size_t.
struct MemoryPlan {
  size_t weights = 0;
  size_t states = 0;      // of all slots
  size_t key_values = 0;  // of attention layers
  // Activations of a step of max_batch_tokens, what brings its rows to a device
  // and their outcomes back, and what sampling works in.
  size_t buffers = 0;
  size_t logits = 0;  // of max_logits_rows

  // The most that there is at a time while it is loaded, where that is more
  // than in the end.
  size_t loading = 0;
  // Page-locked memory of the host, for what goes to a device and comes back in
  // a step; states in RAM are not in it.
  size_t pinned = 0;
  int64_t parameters = 0;  // of the model

  size_t total() const;
  // What is to be reserved for it.
  MemoryNeed need() const;
};

}  // namespace engram
