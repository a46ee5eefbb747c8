// BlockScratch: what lies between the operations of a block, one matrix behind
// the other in memory that ReserveSteps has taken.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/operations.h"

namespace engram {

// Matrices begin at multiples of 64 bytes.
inline int64_t AlignedFloats(int64_t floats) {
  constexpr int64_t kMultiple = 16;
  return (floats + kMultiple - 1) / kMultiple * kMultiple;
}

// Matrices that differ have places that differ, also those without tokens.
inline int64_t ScratchTokens(int64_t tokens) {
  return std::max<int64_t>(tokens, 1);
}

// Handed out from the beginning. What AlignedFloats of the widths reserve for
// each token is enough.
class BlockScratch {
 public:
  BlockScratch(float* next, int64_t tokens)
      : next_(next), tokens_(ScratchTokens(tokens)) {}

  // [tokens, width]
  Matrix Take(int64_t width) {
    const Matrix part = {next_, width};
    next_ += AlignedFloats(tokens_ * width);
    return part;
  }

 private:
  float* next_;
  const int64_t tokens_;
};

inline Matrix ColumnsFrom(Matrix matrix, int64_t first) {
  return {matrix.floats() + first, matrix.stride};
}

}  // namespace engram
