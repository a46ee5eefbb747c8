#include "server/scheduler.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace engram {
namespace {

// The part of the prompts' tokens that is for whoever has waited longest, and
// the part of a step that decoding leaves to prompts which it has kept out.
constexpr int kShareOfLongestWait = 8;
// Of logits, with which every kind of prompt can go on.
constexpr int kRowsOfAPrompt = 2;
// What a share may lack of a whole token that is the sum of fractions.
constexpr double kRounding = 1e-6;

// What is left of the step while it is filled.
struct Budget {
  int tokens = 0;
  int logits_rows = 0;
};

Budget Less(const Budget& budget, int tokens, int logits_rows) {
  return {std::max(0, budget.tokens - tokens),
          std::max(0, budget.logits_rows - logits_rows)};
}

// The tokens of `candidate` that fit, at most `most`: all, or up to the end of
// a chunk.
int Fit(const Candidate& candidate, int64_t most, const Budget& budget,
        int chunk_tokens) {
  int64_t tokens = std::min<int64_t>({candidate.tokens, most, budget.tokens});
  const int rows = budget.logits_rows - (candidate.logits_before ? 1 : 0);
  if (candidate.logits_for_every_token) {
    tokens = std::min<int64_t>(tokens, rows);
  } else if (rows < 1 && tokens == candidate.tokens) {
    // The last token needs a row; all but that one may go on.
    --tokens;
  }
  if (tokens < candidate.tokens) {
    tokens -= (candidate.position + tokens) % chunk_tokens;
  }
  return static_cast<int>(std::max<int64_t>(tokens, 0));
}

Budget Cost(const Candidate& candidate, int tokens) {
  if (tokens == 0) return {};
  int rows = candidate.logits_before ? 1 : 0;
  if (candidate.logits_for_every_token) {
    rows += tokens;
  } else if (tokens == candidate.tokens) {
    ++rows;
  }
  return {tokens, rows};
}

// A step that is being filled.
class StepPlan {
 public:
  StepPlan(const std::vector<Candidate>& candidates, const StepLimits& limits,
           size_t tenants)
      : candidates_(candidates),
        left_{limits.max_batch_tokens, limits.max_logits_rows},
        left_of_tenants_(tenants, 0),
        tokens_(candidates.size(), 0) {}

  // `more` tokens for the candidate, but so many as leave `reserve` free, in
  // whole chunks. Returns how many they are.
  int Feed(int index, int64_t more, const Budget& reserve, int chunk_tokens) {
    const Candidate& candidate = candidates_[index];
    int64_t& left_of_tenant = left_of_tenants_[candidate.tenant];
    const int before = tokens_[index];
    const Budget had = Cost(candidate, before);
    left_.tokens += had.tokens;
    left_.logits_rows += had.logits_rows;
    left_of_tenant += had.tokens;
    Budget left = left_;
    left.tokens =
        static_cast<int>(std::min<int64_t>(left.tokens, left_of_tenant));
    tokens_[index] =
        std::max(before, Fit(candidate, before + more,
                             Less(left, reserve.tokens, reserve.logits_rows),
                             chunk_tokens));
    const Budget has = Cost(candidate, tokens_[index]);
    left_.tokens -= has.tokens;
    left_.logits_rows -= has.logits_rows;
    left_of_tenant -= has.tokens;
    fed_ += has.tokens - had.tokens;
    return tokens_[index] - before;
  }

  // From now on the candidates of the tenant may be fed so many tokens more.
  void Allow(int tenant, int64_t tokens) { left_of_tenants_[tenant] = tokens; }
  int64_t left_of(int tenant) const { return left_of_tenants_[tenant]; }
  int tokens(int index) const { return tokens_[index]; }
  int fed() const { return fed_; }  // all together
  std::vector<int> Take() { return std::move(tokens_); }

 private:
  const std::vector<Candidate>& candidates_;
  Budget left_;
  std::vector<int64_t> left_of_tenants_;
  std::vector<int> tokens_;
  int fed_ = 0;
};

// Whoever has waited too long, then by priority; in turn among equals.
void OrderDecodes(const std::vector<Candidate>& candidates,
                  std::vector<int>* indices) {
  std::stable_sort(indices->begin(), indices->end(), [&](int left, int right) {
    const auto rank = [&](int index) {
      const Candidate& one = candidates[index];
      const bool aged = one.waited >= kSchedulerPatience;
      return std::tuple(!aged, aged ? 0 : -one.priority, -one.waited,
                        one.turns);
    };
    return rank(left) < rank(right);
  });
}

void OrderPrompts(const std::vector<Candidate>& candidates,
                  std::vector<int>* indices) {
  std::stable_sort(indices->begin(), indices->end(), [&](int left, int right) {
    const Candidate& a = candidates[left];
    const Candidate& b = candidates[right];
    if (a.priority != b.priority) return a.priority > b.priority;
    return a.tokens < b.tokens;
  });
}

// Whose share it is that waiting earns, of `prompts` in order of arrival: the
// first of them, unless one was kept out for too long.
int LongestWaiting(const std::vector<Candidate>& candidates,
                   const std::vector<int>& prompts) {
  int longest = prompts.front();
  for (int index : prompts) {
    const int64_t waited = candidates[index].waited;
    if (waited >= kSchedulerPatience && waited > candidates[longest].waited) {
      longest = index;
    }
  }
  return longest;
}

// Where prompts are cut: anywhere if a step may have no room for a chunk.
int ChunkTokens(const StepLimits& limits) {
  const bool fits = limits.max_batch_tokens >= limits.chunk_tokens &&
                    limits.max_logits_rows > limits.chunk_tokens;
  return fits ? limits.chunk_tokens : 1;
}

// The candidates of one tenant that have something to feed.
struct Part {
  int tenant = 0;
  std::vector<int> decodes;
  std::vector<int> prompts;
  int oldest = -1;  // of the prompts, whose share it is that waiting earns
  bool starving = false;  // it was kept out for too long
  int64_t waited = 0;     // for so many steps; 0 if it is not starving
};

std::vector<Part> PartsOf(const std::vector<Candidate>& candidates,
                          const std::vector<StepTenant>& tenants) {
  std::vector<Part> parts(tenants.size());
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Candidate& candidate = candidates[i];
    if (candidate.tokens == 0) continue;
    Part& part = parts[candidate.tenant];
    (candidate.decoding ? part.decodes : part.prompts)
        .push_back(static_cast<int>(i));
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    Part& part = parts[i];
    part.tenant = static_cast<int>(i);
    if (!part.prompts.empty()) {
      part.oldest = LongestWaiting(candidates, part.prompts);
      part.starving = candidates[part.oldest].waited >= kSchedulerPatience;
      if (part.starving) part.waited = candidates[part.oldest].waited;
    }
    OrderDecodes(candidates, &part.decodes);
    OrderPrompts(candidates, &part.prompts);
  }
  std::stable_sort(
      parts.begin(), parts.end(), [&](const Part& left, const Part& right) {
        if (left.waited != right.waited) return left.waited > right.waited;
        return tenants[left.tenant].share > tenants[right.tenant].share;
      });
  return parts;
}

void FeedDecodes(const Part& part, const StepLimits& limits, int chunk,
                 StepPlan* plan) {
  Budget reserve;
  if (part.starving) {
    reserve = {std::max(chunk, limits.max_batch_tokens / kShareOfLongestWait),
               kRowsOfAPrompt};
  }
  for (int index : part.decodes) plan->Feed(index, 1, reserve, 1);
}

void FeedPrompts(const Part& part, const StepLimits& limits, int chunk,
                 StepPlan* plan) {
  if (part.prompts.empty()) return;
  const int64_t own = plan->left_of(part.tenant);
  int64_t left = std::min<int64_t>({std::max(limits.max_prompt_tokens, chunk),
                                    limits.max_batch_tokens, own});
  int64_t share = left / kShareOfLongestWait;
  if (part.starving) share = std::max<int64_t>(share, chunk);
  int fed = plan->Feed(part.oldest, share, Budget(), chunk);
  // Rows of logits may be too few for a chunk as long as others decode.
  if (part.starving && fed == 0 && own >= chunk) {
    fed = plan->Feed(part.oldest, share, Budget(), 1);
  }
  left -= fed;
  for (int index : part.prompts) {
    left -= plan->Feed(index, left, Budget(), chunk);
  }
}

// What was set apart for prompts and did not serve them.
void FeedDecodesKeptOut(const Part& part, StepPlan* plan) {
  for (int index : part.decodes) {
    plan->Feed(index, 1 - plan->tokens(index), Budget(), 1);
  }
}

// Whole tokens of its share that it may feed.
int64_t TokensOfItsOwn(const StepTenant& tenant) {
  if (tenant.share >= static_cast<double>(tenant.most)) return tenant.most;
  return std::max<int64_t>(0, static_cast<int64_t>(tenant.share + kRounding));
}

// What tenants leave of the step is for those who may feed more than `own`, of
// which they still have what the plan says.
void GiveAway(const std::vector<Part>& parts,
              const std::vector<StepTenant>& tenants,
              const std::vector<int64_t>& own, const StepLimits& limits,
              int chunk, StepPlan* plan) {
  const int tokens =
      std::min(limits.max_shared_tokens, limits.max_batch_tokens);
  const auto feed = [&](const Part& part, int64_t more) {
    plan->Allow(part.tenant, more);
    FeedDecodesKeptOut(part, plan);
    FeedPrompts(part, limits, chunk, plan);
  };
  for (const Part& part : parts) {
    const int64_t fed = own[part.tenant] - plan->left_of(part.tenant);
    feed(part, std::clamp<int64_t>(tokens - plan->fed(), 0,
                                   tenants[part.tenant].most - fed));
  }
  // It may be less than anybody's chunk, but no step is left idle.
  for (const Part& part : parts) {
    if (plan->fed() > 0) return;
    feed(part, tenants[part.tenant].most);
  }
}

}  // namespace

std::vector<int> PlanStep(const std::vector<Candidate>& candidates,
                          const StepLimits& limits,
                          const std::vector<StepTenant>& tenants) {
  const std::vector<Part> parts = PartsOf(candidates, tenants);
  StepPlan plan(candidates, limits, tenants.size());
  const int chunk = ChunkTokens(limits);
  std::vector<int64_t> own(tenants.size());
  for (size_t i = 0; i < tenants.size(); ++i) {
    own[i] = TokensOfItsOwn(tenants[i]);
    plan.Allow(static_cast<int>(i), own[i]);
  }
  for (const Part& part : parts) FeedDecodes(part, limits, chunk, &plan);
  for (const Part& part : parts) FeedPrompts(part, limits, chunk, &plan);
  for (const Part& part : parts) {
    if (part.starving) FeedDecodesKeptOut(part, &plan);
  }
  if (tenants.size() > 1) GiveAway(parts, tenants, own, limits, chunk, &plan);
  return plan.Take();
}

}  // namespace engram
