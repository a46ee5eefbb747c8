// OutcomeStrip: what a thread works on for a row of logits. It reads the logits
// once and then goes over scores and weights that its cache holds.
#pragma once

#include <cstdint>
#include <limits>

namespace engram::cpu {

inline constexpr float kMasked = -std::numeric_limits<float>::infinity();

// Ids whose masses are summed up together, so that a draw finds its place
// without looking at all. Scores and weights of a row are filled up to whole
// blocks.
inline constexpr int64_t kOutcomeBlock = 256;

struct OutcomeStrip {
  int64_t ids = 0;             // whole blocks
  float* scores = nullptr;     // [ids], clean, -infinity behind the row's end
  float* weights = nullptr;    // [ids]
  uint64_t* masses = nullptr;  // [ids / kOutcomeBlock], of blocks of weights
};

}  // namespace engram::cpu
