// Cuts: how far down a row's scores top_k and top_p reach.
#pragma once

#include <cstdint>

#include "kernels/cpu/outcome_strip.h"

namespace engram::cpu {

// Where a descent from the highest score has gathered what was wanted.
struct Cut {
  uint32_t key = 0;   // ScoreKey of the last score that is needed
  uint64_t rest = 0;  // still wanted of that score's ids
};

// Of `wanted` ids. REQUIRES: 1 <= wanted <= strip.ids.
Cut FindCountCut(const OutcomeStrip& strip, uint64_t wanted);

// Of ids with a mass of `wanted`; `best` is the highest score, weights are
// those at `temperature`. REQUIRES: 1 <= wanted <= the mass of all.
Cut FindMassCut(const OutcomeStrip& strip, float best, float temperature,
                uint64_t wanted);

}  // namespace engram::cpu
