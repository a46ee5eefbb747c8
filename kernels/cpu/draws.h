// Draws: a token from a row's scores, by the rule of kernels/outcomes.h.
#pragma once

#include <cstdint>

#include "kernels/cpu/outcome_strip.h"
#include "kernels/outcomes.h"

namespace engram::cpu {

// -1: no score is above -infinity. Changes the strip's scores and weights.
// REQUIRES: the draw has parameters, and its ids are of the row.
int32_t Draw(const TokenDraw& draw, const OutcomeStrip& strip);

}  // namespace engram::cpu
