// What a group of weights becomes in WeightFormat::kInt4.
//
// Measured as relative errors of mamba-130m's random weights and divergence
// from float32 of mamba-english, in nats a token: a scale alone and integers
// from -8 to 7 lose 0.065 and 0.031, a scale and a zero point that is one of
// the integers 0.028 of the latter; a scale and a minimum that are those of the
// least and the largest value 0.061 and 0.027; fitted as here 0.056 and 0.023.
#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace engram {

struct Int4Scale {
  uint16_t scale = 0;  // float16, as the minimum
  uint16_t minimum = 0;
};

// Of `values`, finite and none beyond what float16 holds, those by which the
// squares of the errors come to least among a few: from the least value to the
// largest, and fits by least squares to integers of steps a little finer, which
// leave out what lies far outside. The same on every machine.
Int4Scale FitInt4Scale(absl::Span<const float> values);

// The integers that come nearest, ties to even.
void RoundToInt4(absl::Span<const float> values, Int4Scale scale,
                 uint8_t* integers);

}  // namespace engram
