// Rotary positions: a pair of dimensions turned by the angle position
// frequency, whose cosine and sine are computed in double.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/device.h"

namespace engram::cuda {

// Of an angle, each rounded to float.
struct Turn {
  float cosine, sine;
};

// The library's functions take local memory for angles of any size; positions
// are below 2^31. The angle less the nearest multiple of π/2, which is
// subtracted in two parts, goes into the series of both functions, that end
// where terms fall below 1e-13.
__device__ inline Turn TurnBy(double angle) {
  const double quarters = rint(angle * 0.63661977236758134);
  double r = fma(-quarters, 1.5707963267948966, angle);
  r = fma(-quarters, 6.123233995736766e-17, r);
  const double square = r * r;
  double sine = 1.0 / 1307674368000.0;  // 1 / 15!
  sine = fma(-sine, square, 1.0 / 6227020800.0);
  sine = fma(-sine, square, 1.0 / 39916800.0);
  sine = fma(-sine, square, 1.0 / 362880.0);
  sine = fma(-sine, square, 1.0 / 5040.0);
  sine = fma(-sine, square, 1.0 / 120.0);
  sine = fma(-sine, square, 1.0 / 6.0);
  sine = fma(-sine * square, r, r);
  double cosine = 1.0 / 87178291200.0;  // 1 / 14!
  cosine = fma(-cosine, square, 1.0 / 479001600.0);
  cosine = fma(-cosine, square, 1.0 / 3628800.0);
  cosine = fma(-cosine, square, 1.0 / 40320.0);
  cosine = fma(-cosine, square, 1.0 / 720.0);
  cosine = fma(-cosine, square, 1.0 / 24.0);
  cosine = fma(-cosine, square, 0.5);
  cosine = fma(-cosine, square, 1.0);
  const int64_t quarter = static_cast<int64_t>(quarters) & 3;
  const double across = quarter % 2 == 0 ? cosine : sine;
  const double along = quarter % 2 == 0 ? sine : cosine;
  return {static_cast<float>(quarter == 1 || quarter == 2 ? -across : across),
          static_cast<float>(quarter >= 2 ? -along : along)};
}

// Dimension `d` of a head that is rotated as a token of `position`: the leading
// `rotary_dim` dimensions are, d with d + rotary_dim / 2. `load` gives a
// dimension before that.
template <class LoadDimension>
__device__ float Rotated(const double* frequencies, int64_t rotary_dim,
                         int64_t position, int64_t d,
                         const LoadDimension& load) {
  const float own = load(d);
  if (d >= rotary_dim) return own;
  const int64_t half = rotary_dim / 2;
  const bool is_first = d < half;
  const Turn turn = TurnBy(static_cast<double>(position) *
                           LoadConstant(frequencies + d % half));
  const float other = load(is_first ? d + half : d - half);
  return is_first ? own * turn.cosine - other * turn.sine
                  : own * turn.cosine + other * turn.sine;
}

}  // namespace engram::cuda
