// Weights of so many bytes that a product reads them for a long time: how a
// device computes with them, and what it needs for that.
#pragma once

#include <cstdint>

#include "kernels/operations.h"

namespace engram {

// From 20 MB on, had it 16 bits a value.
bool IsLargeWeight(int64_t outputs, int64_t inputs);
// Weights of that many bytes are large, here and in every order of summation
// that depends on it. Returns what it was. REQUIRES: no weight is packed.
int64_t SetLargeWeightBytesForTest(int64_t bytes);

// Of memory, for each token of the largest step, that a device's library of
// products needs with such a weight: x in the weight's type; and sums of its
// own where they may be added to y, whose width is then not above x's. 0 of
// weights that it has nothing for.
int64_t LibraryProductBytes(WeightFormat format, int64_t outputs,
                            int64_t inputs);

}  // namespace engram
