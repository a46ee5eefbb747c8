// Sampler: one row of logits to one token.
//
// The order is fixed: logit_bias, repetition penalty, presence and frequency
// penalties; at temperature 0 the largest logit wins (the lowest id on ties);
// else / temperature, top_k, top_p, min_p, softmax in float32, and a draw by
// inverse CDF over ids in ascending order. The draw is counter-based: it
// depends on the seed and on the index of the token in its sequence and on
// nothing else, so a turn that is repeated gives the same tokens whatever it
// was batched with.
//
// Thread-compatible: no state but scratch memory; one per engine thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/outcomes.h"

namespace engram {

// INVALID_ARGUMENT with the field's name, its value and its limits.
absl::Status Validate(const SamplingParameters& parameters, int64_t ids);

// log softmax of raw `logits` (before bias, penalties, temperature, filters)
// at `id`; sums in double.
float LogProbabilityOf(absl::Span<const float> logits, int32_t id);
// The `count` largest, best first, ties by lowest id; masked ids (-infinity)
// are left out, so there may be fewer.
std::vector<LogProbability> TopLogProbabilities(absl::Span<const float> logits,
                                                int count);

// Ten rounds of Philox4x32 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", 2011): four words that depend on nothing but the arguments.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                   std::array<uint32_t, 2> key);

// Uniform in [0, 1) for the token at `index` of the sequence: Philox4x32 with
// key = seed (low word first), counter = index (low word first, upper two words
// 0), u = ((x0 << 32 | x1) >> 11) * 2^-53.
double UniformAt(uint64_t seed, uint64_t index);

class Sampler {
 public:
  explicit Sampler(int64_t vocabulary_size);

  // `logits`     [vocabulary_size] raw, -infinity where masked
  // `index`      of the token to be sampled in its whole sequence
  // `seen`       for the repetition penalty; may be nullptr if it is 1
  // `generated`  this turn's tokens with counts, for presence and frequency
  // REQUIRES: valid parameters; every id below vocabulary_size.
  //
  // NaN counts as -infinity, which is never drawn. -1 if nothing else is there:
  // the model is broken.
  int32_t Sample(absl::Span<const float> logits,
                 const SamplingParameters& parameters, uint64_t index,
                 const TokenSet* seen,
                 const std::map<int32_t, int32_t>& generated);

  // A token that may be drawn, with probability weight / sum of weights.
  struct Candidate {
    int32_t id = 0;
    float score = 0;   // the logit after bias and penalties
    float weight = 0;  // 1 for the best
  };
  // What Sample() draws from, ids ascending; valid until the next call.
  absl::Span<const Candidate> Candidates(
      absl::Span<const float> logits, const SamplingParameters& parameters,
      const TokenSet* seen, const std::map<int32_t, int32_t>& generated);

 private:
  void Penalise(const SamplingParameters& parameters, const TokenSet* seen,
                const std::map<int32_t, int32_t>& generated);
  void Collect();
  void KeepBest();
  void KeepTopK(int32_t top_k);
  void ComputeWeights(float temperature);
  void KeepTopP(float top_p);
  void KeepMinP(float min_p);

  std::vector<float> scores_;          // [vocabulary_size]
  std::vector<Candidate> candidates_;  // ids ascending
  std::vector<Candidate> ranking_;     // scratch: the same, partly sorted
};

}  // namespace engram
