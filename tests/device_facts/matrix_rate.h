// How fast the device's own library multiplies matrices.
#pragma once

#include <string>

namespace engram {

// TFLOP/s of bfloat16 products of `size` in all three directions by cuBLASLt,
// which is loaded where it is; 0 with the reason if that cannot be had.
double MatrixRate(int size, std::string* reason);

}  // namespace engram
