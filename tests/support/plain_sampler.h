// The rule of kernels/outcomes.h written down once more, as plainly as can be:
// what every back end's outcomes are compared with, and what ScriptedModel
// answers with. It sorts the vocabulary, and sums exponentials in doubles.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/outcomes.h"

namespace engram {

// A token that may be drawn, with probability mass / sum of masses.
struct PlainCandidate {
  int32_t id = 0;
  float score = 0;    // the logit after bias and penalties
  float weight = 0;   // 1 for the best
  uint64_t mass = 0;  // the weight in units of 2^-40, rounded down
};

// What a token is drawn from, ids ascending.
std::vector<PlainCandidate> PlainCandidates(absl::Span<const float> logits,
                                            const TokenDraw& draw);

// The token; -1: no logit is above -infinity.
int32_t PlainSample(absl::Span<const float> logits, const TokenDraw& draw);

// log softmax of raw `logits` at `id`; -infinity where the logit is, or is NaN.
float LogProbabilityOf(absl::Span<const float> logits, int32_t id);
// The `count` largest, best first, ties by lowest id; those that are not above
// -infinity are left out, so there may be fewer.
std::vector<LogProbability> TopLogProbabilities(absl::Span<const float> logits,
                                                int count);

// What a row of logits answers to `request`.
Outcome PlainOutcome(absl::Span<const float> logits,
                     const OutcomeRequest& request);

}  // namespace engram
