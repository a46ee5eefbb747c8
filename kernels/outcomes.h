// Outcomes: what a row of logits is asked for, and what it answers. Logits stay
// in the back end's memory; a token, log-probabilities and the best
// alternatives are all that leaves it.
//
// The rule of a draw, by which every back end draws the same token from the
// same logits; its arithmetic is kernels/sampling_rule.h:
//
//   1. score = logit + logit_bias; then the repetition penalty: above 0 divided
//      by it, below multiplied; then less presence_penalty + frequency_penalty
//      * count. Rounded to float after each; denormal numbers are 0; NaN counts
//      as -infinity, and that is never drawn.
//   2. At temperature 0 the highest score wins, the lowest id on ties.
//   3. Else top_k: scores below the k-th highest are left out.
//   4. weight = exp((score - highest) / temperature), mass = floor(weight
//      2^40). What has mass 0 is left out.
//   5. top_p: the best, by descending score and ascending id, until their
//      masses together reach ceil(top_p * the sum of all); the rest is left
//      out.
//   6. min_p: weights below min_p are left out.
//   7. The token is the first, by ascending id, with which the running sum of
//      masses passes floor(u * their sum), u = 53 random bits * 2^-53.
//
// Masses are integers, whose sums don't depend on an order. The random bits
// depend on the seed and on the token's index in its sequence and on nothing
// else, so a turn that is repeated gives the same tokens whatever it was
// batched with.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/types/span.h"

namespace engram {

struct SamplingParameters {
  float temperature = 0;         // 0: greedy; at most 100
  int32_t top_k = 0;             // 0: off; ties with the k-th survive
  float top_p = 1;               // (0, 1]; 1: off
  float min_p = 0;               // [0, 1]; 0: off
  float repetition_penalty = 1;  // (0, 100]; 1: off
  float presence_penalty = 0;    // [-100, 100]
  float frequency_penalty = 0;   // [-100, 100]
  std::map<int32_t, float> logit_bias = {};  // id to [-100, 100]
  uint64_t seed = 0;
};

// One bit per vocabulary entry: which tokens a session has read or said.
class TokenSet {
 public:
  explicit TokenSet(int64_t ids = 0) : words_((ids + 63) / 64) {}
  void Insert(int32_t id) { words_[id >> 6] |= uint64_t{1} << (id & 63); }
  bool Contains(int32_t id) const { return (words_[id >> 6] >> (id & 63)) & 1; }
  // Calls `visit(id)` for every member, ascending.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (size_t word = 0; word < words_.size(); ++word) {
      for (uint64_t rest = words_[word]; rest != 0; rest &= rest - 1) {
        visit(static_cast<int32_t>(word * 64 + std::countr_zero(rest)));
      }
    }
  }
  // Id i is bit i mod 64 of word i / 64.
  absl::Span<const uint64_t> words() const { return words_; }
  size_t bytes() const { return words_.size() * sizeof(uint64_t); }

 private:
  std::vector<uint64_t> words_;
};

// A token to be drawn. What it points to is host memory of the caller's, which
// is not looked at any more when the draw has been begun.
struct TokenDraw {
  const SamplingParameters* parameters = nullptr;  // nullptr: none is drawn
  uint64_t index = 0;  // of the token in its whole sequence
  // For the repetition penalty; may be nullptr if that is 1.
  const TokenSet* seen = nullptr;
  // This turn's tokens with counts, for presence and frequency; or nullptr.
  const std::map<int32_t, int32_t>* generated = nullptr;
  // A token that counts as though both of these had it once more; -1: none.
  int32_t newest = -1;
  // The row of the step that it is drawn for, if that follows a draw which an
  // asynchronous back end has not told (Row::follows): the token that the row
  // feeds is `newest` then, and none is drawn if it feeds none. -1: no row.
  int32_t follower = -1;
  // Where the sequence ends, so that nothing is fed to it any more: at each of
  // these ids, or with this token whatever it is.
  absl::Span<const int32_t> stop_ids = {};
  bool is_last = false;
};

// What one row of logits is asked for.
struct OutcomeRequest {
  TokenDraw draw = {};
  // The id whose log-probability is asked for; -1: that of the token drawn, if
  // there are alternatives to be told.
  int32_t scored = -1;
  int32_t alternatives = 0;  // most probable ids to be told
};

struct LogProbability {
  int32_t id = 0;
  float value = 0;  // natural logarithm
};

// Log-probabilities are of the raw logits, before bias, penalties, temperature
// and filters; those of ids that are not finite are -infinity. Sums in double,
// in one order, or of integers.
struct Outcome {
  bool finite = true;  // all logits are
  // The one drawn; -1: none was asked for, or there is no score above
  // -infinity.
  int32_t token = -1;
  // The draw says that the sequence ends here; or there is nothing to feed: no
  // token, or logits that are not finite.
  bool stops = false;
  float log_probability = 0;  // of the scored id or the token, if asked for
  // Best first, ties by the lowest id; fewer where not all ids are finite.
  std::vector<LogProbability> top = {};
};

}  // namespace engram
