// What back ends have of memory, and what they are going to take of it. Bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

namespace engram {

// Memory of one kind, of all back ends of the process that share it.
struct MemoryUse {
  // The most that they may take; nothing: as much as the machine has.
  std::optional<size_t> limit;
  size_t taken = 0;  // from the device or the system
  size_t used = 0;   // of that, by what there is now
};

// What something will take.
struct MemoryNeed {
  size_t device = 0;  // of Allocate()'s
  size_t pinned = 0;  // of AllocateHost()'s, where that is page-locked
};

// The largest step that there can be, each number by itself.
struct LargestStep {
  int64_t rows = 0;          // with those of padding
  int64_t tokens = 0;        // of all rows
  int64_t block_floats = 0;  // of a token, the most of ScratchFloats()
  int64_t kv_blocks = 0;     // in the lists of all rows together
  int64_t outcomes = 0;      // requests
  int64_t ids = 0;           // logits for each of them

  size_t scratch_bytes() const { return tokens * block_floats * sizeof(float); }
  // The larger one of each.
  LargestStep MostOf(const LargestStep& other) const {
    return {.rows = std::max(rows, other.rows),
            .tokens = std::max(tokens, other.tokens),
            .block_floats = std::max(block_floats, other.block_floats),
            .kv_blocks = std::max(kv_blocks, other.kv_blocks),
            .outcomes = std::max(outcomes, other.outcomes),
            .ids = std::max(ids, other.ids)};
  }
  bool operator==(const LargestStep&) const = default;
};

// The sum and the product, or the largest size_t if that is less.
inline size_t AddSizes(size_t a, size_t b) {
  size_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<size_t>::max()
                                            : sum;
}
inline size_t MultiplySizes(size_t a, size_t b) {
  size_t product = 0;
  return __builtin_mul_overflow(a, b, &product)
             ? std::numeric_limits<size_t>::max()
             : product;
}

// The next multiple, or the largest there is.
constexpr size_t RoundUpTo(size_t bytes, size_t multiple) {
  constexpr size_t kLargest = std::numeric_limits<size_t>::max();
  return bytes > kLargest - multiple
             ? kLargest / multiple * multiple
             : (bytes + multiple - 1) / multiple * multiple;
}

}  // namespace engram
