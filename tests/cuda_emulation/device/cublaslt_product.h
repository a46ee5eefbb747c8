// A product as the emulated cuBLASLt computes it, on bytes of the device.
#pragma once

#include <cstdint>

#include "tests/cuda_emulation/device/emulation.h"

namespace engram::emulation {

// d [columns, rows] = a bᵀ + beta c, where a row of a and one of b are `depth`
// values beside each other; a `leading` is how far it is from one row of a
// matrix to the next.
struct LibraryProduct {
  bool is_float16 = false;  // or else bfloat16, of a and b
  int64_t rows = 0;         // of a
  int64_t columns = 0;      // rows of b
  int64_t depth = 0;        // a multiple of 16
  float beta = 0;           // 0: c is not read
  const uint16_t* a = nullptr;
  const uint16_t* b = nullptr;
  const float* c = nullptr;
  float* d = nullptr;
  int64_t a_leading = 0;
  int64_t b_leading = 0;
  int64_t c_leading = 0;
  int64_t d_leading = 0;
};

void RunProduct(const LibraryProduct& product, Algorithm algorithm);

}  // namespace engram::emulation
