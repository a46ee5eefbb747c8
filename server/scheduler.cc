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
  StepPlan(const std::vector<Candidate>& candidates, const StepLimits& limits)
      : candidates_(candidates),
        left_{limits.max_batch_tokens, limits.max_logits_rows},
        tokens_(candidates.size(), 0) {}

  // `more` tokens for the candidate, but so many as leave `reserve` free, in
  // whole chunks. Returns how many they are.
  int Feed(int index, int64_t more, const Budget& reserve, int chunk_tokens) {
    const Candidate& candidate = candidates_[index];
    const int before = tokens_[index];
    const Budget had = Cost(candidate, before);
    left_.tokens += had.tokens;
    left_.logits_rows += had.logits_rows;
    tokens_[index] =
        std::max(before, Fit(candidate, before + more,
                             Less(left_, reserve.tokens, reserve.logits_rows),
                             chunk_tokens));
    const Budget has = Cost(candidate, tokens_[index]);
    left_.tokens -= has.tokens;
    left_.logits_rows -= has.logits_rows;
    return tokens_[index] - before;
  }

  int tokens(int index) const { return tokens_[index]; }
  std::vector<int> Take() { return std::move(tokens_); }

 private:
  const std::vector<Candidate>& candidates_;
  Budget left_;
  std::vector<int> tokens_;
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

}  // namespace

std::vector<int> PlanStep(const std::vector<Candidate>& candidates,
                          const StepLimits& limits) {
  std::vector<int> decodes;
  std::vector<int> prompts;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (candidates[i].tokens == 0) continue;
    (candidates[i].decoding ? decodes : prompts).push_back(static_cast<int>(i));
  }
  StepPlan plan(candidates, limits);
  const int chunk = ChunkTokens(limits);
  int oldest = -1;
  bool starving = false;
  if (!prompts.empty()) {
    oldest = LongestWaiting(candidates, prompts);
    starving = candidates[oldest].waited >= kSchedulerPatience;
  }
  OrderDecodes(candidates, &decodes);
  Budget reserve;
  if (starving) {
    reserve = {std::max(chunk, limits.max_batch_tokens / kShareOfLongestWait),
               kRowsOfAPrompt};
  }
  for (int index : decodes) plan.Feed(index, 1, reserve, 1);

  if (!prompts.empty()) {
    OrderPrompts(candidates, &prompts);
    int left = std::min(std::max(limits.max_prompt_tokens, chunk),
                        limits.max_batch_tokens);
    int share = left / kShareOfLongestWait;
    if (starving) share = std::max(share, chunk);
    int fed = plan.Feed(oldest, share, Budget(), chunk);
    // Rows of logits may be too few for a chunk as long as others decode.
    if (starving && fed == 0) fed = plan.Feed(oldest, share, Budget(), 1);
    left -= fed;
    for (int index : prompts) left -= plan.Feed(index, left, Budget(), chunk);
  }
  // What was set apart for prompts and did not serve them.
  if (starving) {
    for (int index : decodes)
      plan.Feed(index, 1 - plan.tokens(index), Budget(), 1);
  }
  return plan.Take();
}

}  // namespace engram
