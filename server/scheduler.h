// Scheduler: who is in the next step, and with how many tokens. Pure policy: no
// thread, no lock, no clock.
//
// A step has a budget of tokens. Decoding sequences come first, one token each,
// so that a long prompt never stalls running streams. What is left is shared by
// the prompts: the highest priority first, then the shortest rest, so that a
// short prompt need not wait for a long one. An eighth of it belongs to the
// prompt that came first, or was kept out longest: none ever starves.
//
// All that holds among the sequences of one tenant. Where several share a step,
// each has so many tokens of it as are its own (server/tenant_shares.h), and
// what one leaves is given to the others.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace engram {

struct StepLimits {
  int max_batch_tokens = 512;
  int max_logits_rows = 128;
  // Of max_batch_tokens, for prompts: what the time of a step allows; at least
  // a chunk.
  int max_prompt_tokens = std::numeric_limits<int>::max();
  // All that a step shall have where several tenants share it; what a tenant is
  // owed comes on top.
  int max_shared_tokens = std::numeric_limits<int>::max();
  // Prompts are cut at multiples of so many tokens from their sequence's
  // beginning (ModelInfo::chunk_tokens), so that who else is in the step does
  // not say where. Elsewhere only where steps are less than a chunk, or the
  // step of a prompt that was kept out too long has no room for one.
  int chunk_tokens = 1;
};

// One running sequence, as the scheduler sees it.
struct Candidate {
  // All that it could feed now; 0: it is paused.
  int64_t tokens = 0;
  // Tokens that its sequence has before them.
  int64_t position = 0;
  // Rows of logits: one per token (kScore), or one after its last token.
  bool logits_for_every_token = false;
  // One more row, before its first token.
  bool logits_before = false;
  // It has sampled before: its one token is a decode step.
  bool decoding = false;
  int priority = 0;
  // Steps in a row that left it out.
  int64_t waited = 0;
  // Steps that it was in.
  int64_t turns = 0;
  // Whose it is, of the tenants that share the step.
  int tenant = 0;
};

// One whose candidates share a step with those of others.
struct StepTenant {
  // Of the step's tokens, its own. Where something else does not suffice for
  // all, whose prompt was kept out too long goes first, then who has most of
  // them.
  double share = std::numeric_limits<double>::infinity();
  // Tokens that it may feed, whatever the others leave (Tenant::TakeTokens).
  int64_t most = std::numeric_limits<int64_t>::max();
};

// Steps after which nobody's priority keeps a candidate out of the next one.
inline constexpr int64_t kSchedulerPatience = 8;

// The number of tokens that each candidate feeds in the next step, 0 for those
// that wait. `candidates` are in order of arrival.
std::vector<int> PlanStep(const std::vector<Candidate>& candidates,
                          const StepLimits& limits,
                          const std::vector<StepTenant>& tenants = {{}});

}  // namespace engram
