// Whether neighbouring values can be loaded and stored together: what the host
// finds out before it launches.
#pragma once

#include <cstdint>

#include "kernels/operations.h"

namespace engram::cuda {

// Whether data begins at a multiple of 16 bytes; and so four values at a
// multiple of four of every row, or of every share.
inline bool AreFoursAligned(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}
inline bool AreFoursAligned(const ConstMatrix& matrix) {
  return matrix.stride % 4 == 0 && AreFoursAligned(matrix.data);
}
inline bool AreFoursAligned(const LayerShares& shares) {
  return shares.stride % 4 == 0 && AreFoursAligned(shares.data);
}

// The same of two values: at a multiple of 8 bytes, at a multiple of two.
inline bool ArePairsAligned(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % 8 == 0;
}
inline bool ArePairsAligned(const ConstMatrix& matrix) {
  return matrix.stride % 2 == 0 && ArePairsAligned(matrix.data);
}
inline bool ArePairsAligned(const LayerShares& shares) {
  return shares.stride % 2 == 0 && ArePairsAligned(shares.data);
}

}  // namespace engram::cuda
