// MemoryPlan: what a model folder will take in memory, told before anything is
// taken.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "model/model.h"

namespace engram {

// Bytes. Sums that do not fit are the largest size_t.
struct MemoryPlan {
  size_t weights = 0;
  size_t states = 0;      // of all slots
  size_t key_values = 0;  // of attention layers
  size_t buffers = 0;     // activations of a step of max_batch_tokens
  size_t logits = 0;      // of max_logits_rows, with what sampling needs

  size_t total() const;
};

// What LoadModel() takes with these limits: the same code runs with a back end
// that takes nothing and counts. Errors are those of LoadModel(), which may
// still find more: whether values are finite is not looked at.
absl::StatusOr<MemoryPlan> PlanMemory(const std::string& folder,
                                      const ModelLimits& limits);

}  // namespace engram
