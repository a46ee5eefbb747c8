// Log-probabilities of a row's ids, and which are the most probable.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/outcome_strip.h"
#include "kernels/outcomes.h"

namespace engram::cpu {

// What makes a log-probability of a score.
struct LogNormalizer {
  double highest = 0;     // score
  double log_of_sum = 0;  // of exp(score - highest) over all ids

  float LogProbabilityOf(float score) const {
    return static_cast<float>((double{score} - highest) - log_of_sum);
  }
};

// Changes the strip's weights.
LogNormalizer FindLogNormalizer(const OutcomeStrip& strip);

// The `count` ids with the highest scores above -infinity, best first, ties by
// the lowest id; values are scores.
void BestIds(const OutcomeStrip& strip, int32_t count,
             std::vector<LogProbability>* best);

}  // namespace engram::cpu
