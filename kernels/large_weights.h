// Weights of so many bytes that a product reads them for a long time.
#pragma once

#include <cstdint>

namespace engram {

// From 20 MB on, had it 16 bits a value.
bool IsLargeWeight(int64_t outputs, int64_t inputs);
// Weights of that many bytes are large, here and in every order of summation
// that depends on it. Returns what it was. REQUIRES: no weight is packed.
int64_t SetLargeWeightBytesForTest(int64_t bytes);

}  // namespace engram
