// Scheduler: who is in the next step, and with how many tokens. Pure policy: no
// thread, no lock, no clock.
//
// A step has a budget of tokens. Every decoding sequence comes first, so that
// a long prompt never stalls running streams; what is left of the budget goes
// to prompt chunks in order of arrival.
#pragma once

#include <cstddef>
#include <vector>

namespace engram {

struct StepLimits {
  int max_batch_tokens = 512;
  int max_logits_rows = 128;
};

// One running sequence, as the scheduler sees it.
struct Candidate {
  // Tokens that it could feed now; 0: it is paused.
  int tokens = 0;
  // Rows of logits: one per token (kScore), or one after its last token.
  bool logits_for_every_token = false;
  // One more row, before its first token.
  bool logits_before = false;
  // It has sampled before: its one token is a decode step.
  bool decoding = false;
};

// The number of tokens that each candidate feeds in the next step, 0 for those
// that wait. `candidates` are in order of arrival. `first_decode` turns over
// who goes first when not even all decoding sequences fit.
std::vector<int> PlanStep(const std::vector<Candidate>& candidates,
                          const StepLimits& limits, size_t first_decode);

}  // namespace engram
