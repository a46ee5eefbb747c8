#include "model/memory_plan.h"

#include "model/counting_backend.h"

namespace engram {

size_t MemoryPlan::total() const {
  size_t sum = 0;
  for (const size_t part : {weights, states, key_values, buffers, logits}) {
    sum = AddSizes(sum, part);
  }
  return sum;
}

}  // namespace engram
