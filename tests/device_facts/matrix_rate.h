// How fast the device's own library multiplies matrices.
#pragma once

#include <cstdint>
#include <string>

namespace engram {

// TFLOP/s of x [tokens, inputs] Wᵀ in bfloat16 by cuBLASLt, with the algorithm
// that it proposes; 0 with the reason if that cannot be had.
double MatrixRate(int64_t tokens, int64_t outputs, int64_t inputs,
                  std::string* reason);

}  // namespace engram
