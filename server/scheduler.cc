#include "server/scheduler.h"

#include <algorithm>

namespace engram {
namespace {

// What is left of the step while it is filled.
struct Budget {
  int tokens;
  int logits_rows;
};

// The tokens of `candidate` that still fit.
int Fit(const Candidate& candidate, const Budget& budget) {
  int tokens = std::min(candidate.tokens, budget.tokens);
  const int rows = budget.logits_rows - (candidate.logits_before ? 1 : 0);
  if (candidate.logits_for_every_token) {
    tokens = std::min(tokens, rows);
  } else if (rows < 1 && tokens == candidate.tokens) {
    // The last token needs a row; all but that one may go on.
    --tokens;
  }
  return std::max(tokens, 0);
}

void Take(const Candidate& candidate, int tokens, Budget* budget) {
  budget->tokens -= tokens;
  if (tokens == 0) return;
  if (candidate.logits_before) --budget->logits_rows;
  if (candidate.logits_for_every_token) {
    budget->logits_rows -= tokens;
  } else if (tokens == candidate.tokens) {
    --budget->logits_rows;
  }
}

}  // namespace

std::vector<int> PlanStep(const std::vector<Candidate>& candidates,
                          const StepLimits& limits, size_t first_decode) {
  std::vector<int> plan(candidates.size(), 0);
  Budget budget{limits.max_batch_tokens, limits.max_logits_rows};
  const size_t count = candidates.size();
  for (size_t i = 0; i < count; ++i) {
    const size_t chosen = (first_decode + i) % count;
    if (!candidates[chosen].decoding) continue;
    plan[chosen] = Fit(candidates[chosen], budget);
    Take(candidates[chosen], plan[chosen], &budget);
  }
  for (size_t i = 0; i < count; ++i) {
    if (candidates[i].decoding) continue;
    plan[i] = Fit(candidates[i], budget);
    Take(candidates[i], plan[i], &budget);
  }
  return plan;
}

}  // namespace engram
