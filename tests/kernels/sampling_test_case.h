// Logits and draws for the tests of outcomes.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "kernels/outcomes.h"

namespace engram {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

using Logits = std::vector<float>;

inline Logits RandomLogits(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 2);
  Logits logits(count);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

inline Logits Logarithms(Logits probabilities) {
  for (float& value : probabilities) value = std::log(value);
  return probabilities;
}

inline TokenDraw DrawOf(const SamplingParameters& parameters,
                        uint64_t index = 0) {
  return {.parameters = &parameters, .index = index};
}

}  // namespace engram
