#include "model/memory_plan.h"

#include <algorithm>

namespace engram {

size_t MemoryPlan::total() const {
  size_t sum = 0;
  for (const size_t part : {weights, states, key_values, buffers, logits}) {
    sum = AddSizes(sum, part);
  }
  return sum;
}

MemoryNeed MemoryPlan::need() const {
  return {.device = std::max(total(), loading), .pinned = pinned};
}

}  // namespace engram
