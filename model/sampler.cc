#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

// Better first; equal scores by the lowest id, so that every order is total and
// a result never depends on how a library sorts.
bool IsBetter(const Sampler::Candidate& a, const Sampler::Candidate& b) {
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}

absl::Status OutOfRange(const std::string& field, float value,
                        const std::string& limits) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, ", must be in ", limits));
}

// The comparisons are written so that NaN fails them.
absl::Status CheckWithin(const std::string& field, float value, float low,
                         float high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return OutOfRange(field, value, absl::StrCat("[", low, ", ", high, "]"));
}

absl::Status CheckPositive(const std::string& field, float value, float high) {
  if (value > 0 && value <= high) return absl::OkStatus();
  return OutOfRange(field, value, absl::StrCat("(0, ", high, "]"));
}

absl::Status CheckBias(const std::map<int32_t, float>& logit_bias,
                       int64_t ids) {
  for (const auto& [id, bias] : logit_bias) {
    if (id < 0 || id >= ids) {
      return absl::InvalidArgumentError(absl::StrCat(
          "logit_bias has id ", id, ", must be in [0, ", ids - 1, "]"));
    }
    ENGRAM_RETURN_IF_ERROR(
        CheckWithin(absl::StrCat("logit_bias of id ", id), bias, -100, 100));
  }
  return absl::OkStatus();
}

float LargestOf(absl::Span<const float> logits) {
  float largest = kMasked;
  for (float logit : logits) {
    if (logit > largest) largest = logit;
  }
  return largest;
}

// The logarithm of the softmax, whose parts that all ids share are taken once.
// Subtracting the largest logit first keeps small differences of huge ones.
class LogSoftmax {
 public:
  explicit LogSoftmax(absl::Span<const float> logits)
      : largest_(LargestOf(logits)) {
    double sum = 0;
    for (float logit : logits) {
      if (logit > kMasked) sum += std::exp(logit - largest_);
    }
    log_of_sum_ = std::log(sum);
  }

  // REQUIRES: `logit` is one of them, not masked.
  float operator()(float logit) const {
    return static_cast<float>((logit - largest_) - log_of_sum_);
  }

 private:
  double largest_;
  double log_of_sum_;
};

}  // namespace

absl::Status Validate(const SamplingParameters& parameters, int64_t ids) {
  ENGRAM_RETURN_IF_ERROR(
      CheckWithin("temperature", parameters.temperature, 0, 100));
  if (parameters.top_k < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", parameters.top_k, ", must be at least 0"));
  }
  ENGRAM_RETURN_IF_ERROR(CheckPositive("top_p", parameters.top_p, 1));
  ENGRAM_RETURN_IF_ERROR(CheckWithin("min_p", parameters.min_p, 0, 1));
  ENGRAM_RETURN_IF_ERROR(
      CheckPositive("repetition_penalty", parameters.repetition_penalty, 100));
  ENGRAM_RETURN_IF_ERROR(
      CheckWithin("presence_penalty", parameters.presence_penalty, -100, 100));
  ENGRAM_RETURN_IF_ERROR(CheckWithin("frequency_penalty",
                                     parameters.frequency_penalty, -100, 100));
  return CheckBias(parameters.logit_bias, ids);
}

float LogProbabilityOf(absl::Span<const float> logits, int32_t id) {
  if (!(logits[id] > kMasked)) return kMasked;
  return LogSoftmax(logits)(logits[id]);
}

std::vector<LogProbability> TopLogProbabilities(absl::Span<const float> logits,
                                                int count) {
  std::vector<Sampler::Candidate> ranking;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] > kMasked) {
      ranking.push_back({static_cast<int32_t>(id), logits[id], 0});
    }
  }
  const size_t kept =
      std::min(ranking.size(), static_cast<size_t>(std::max(count, 0)));
  std::partial_sort(ranking.begin(), ranking.begin() + kept, ranking.end(),
                    IsBetter);
  const LogSoftmax log_softmax(logits);
  std::vector<LogProbability> best;
  for (size_t i = 0; i < kept; ++i) {
    best.push_back({ranking[i].id, log_softmax(ranking[i].score)});
  }
  return best;
}

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                   std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

double UniformAt(uint64_t seed, uint64_t index) {
  const std::array<uint32_t, 4> x = Philox4x32(
      {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0},
      {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = (uint64_t{x[0]} << 32) | x[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

Sampler::Sampler(int64_t vocabulary_size) : scores_(vocabulary_size) {
  candidates_.reserve(vocabulary_size);
  ranking_.reserve(vocabulary_size);
}

int32_t Sampler::Sample(absl::Span<const float> logits,
                        const SamplingParameters& parameters, uint64_t index,
                        const TokenSet* seen,
                        const std::map<int32_t, int32_t>& generated) {
  Candidates(logits, parameters, seen, generated);
  if (candidates_.empty()) return -1;
  if (candidates_.size() == 1) return candidates_.front().id;
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  const double target = UniformAt(parameters.seed, index) * total;
  double reached = 0;
  for (const Candidate& candidate : candidates_) {
    reached += candidate.weight;
    if (reached > target) return candidate.id;
  }
  // The sums above are taken in the same order, so that target < total, unless
  // the product was rounded up.
  return candidates_.back().id;
}

absl::Span<const Sampler::Candidate> Sampler::Candidates(
    absl::Span<const float> logits, const SamplingParameters& parameters,
    const TokenSet* seen, const std::map<int32_t, int32_t>& generated) {
  ENGRAM_CHECK(logits.size() == scores_.size());
  std::copy(logits.begin(), logits.end(), scores_.begin());
  Penalise(parameters, seen, generated);
  if (parameters.temperature == 0) {
    KeepBest();
    return candidates_;
  }
  Collect();
  if (parameters.top_k > 0) KeepTopK(parameters.top_k);
  ComputeWeights(parameters.temperature);
  if (parameters.top_p < 1) KeepTopP(parameters.top_p);
  if (parameters.min_p > 0) KeepMinP(parameters.min_p);
  return candidates_;
}

void Sampler::Penalise(const SamplingParameters& parameters,
                       const TokenSet* seen,
                       const std::map<int32_t, int32_t>& generated) {
  for (const auto& [id, bias] : parameters.logit_bias) scores_[id] += bias;
  const float repetition = parameters.repetition_penalty;
  if (repetition != 1 && seen != nullptr) {
    seen->ForEach([&](int32_t id) {
      float& score = scores_[id];
      score = score < 0 ? score * repetition : score / repetition;
    });
  }
  for (const auto& [id, count] : generated) {
    scores_[id] -= parameters.presence_penalty +
                   parameters.frequency_penalty * static_cast<float>(count);
  }
}

void Sampler::Collect() {
  candidates_.clear();
  for (size_t id = 0; id < scores_.size(); ++id) {
    if (scores_[id] > kMasked) {
      candidates_.push_back({static_cast<int32_t>(id), scores_[id], 0});
    }
  }
}

void Sampler::KeepBest() {
  Candidate best = {-1, kMasked, 1};
  for (size_t id = 0; id < scores_.size(); ++id) {
    if (scores_[id] > best.score) {
      best.id = static_cast<int32_t>(id);
      best.score = scores_[id];
    }
  }
  candidates_.clear();
  if (best.id >= 0) candidates_.push_back(best);
}

// Few are found fastest by a heap of them, which most candidates do not enter;
// many by partitioning.
void Sampler::KeepTopK(int32_t top_k) {
  constexpr size_t kFew = 1024;
  const auto count = static_cast<size_t>(top_k);
  if (count >= candidates_.size()) return;
  if (count <= kFew) {
    ranking_.resize(count);
    std::partial_sort_copy(candidates_.begin(), candidates_.end(),
                           ranking_.begin(), ranking_.end(), IsBetter);
  } else {
    ranking_ = candidates_;
    std::nth_element(ranking_.begin(), ranking_.begin() + (top_k - 1),
                     ranking_.end(), IsBetter);
  }
  const float least = ranking_[count - 1].score;
  std::erase_if(candidates_, [least](const Candidate& candidate) {
    return candidate.score < least;
  });
}

// Dividing the distance to the best instead of the score itself cannot overflow
// to "infinity minus infinity", however small the temperature.
void Sampler::ComputeWeights(float temperature) {
  float best = kMasked;
  for (const Candidate& candidate : candidates_) {
    best = std::max(best, candidate.score);
  }
  for (Candidate& candidate : candidates_) {
    candidate.weight = candidate.score == best
                           ? 1.0f
                           : std::exp((candidate.score - best) / temperature);
  }
  std::erase_if(candidates_, [](const Candidate& candidate) {
    return candidate.weight == 0;
  });
}

// The smallest set of best candidates whose mass reaches top_p. Usually a few
// hundred hold it, so only as many are sorted as turn out to be needed.
void Sampler::KeepTopP(float top_p) {
  if (candidates_.size() < 2) return;
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  const double wanted = static_cast<double>(top_p) * total;
  // All that are below this limit together have less than 1 - top_p of the mass
  // and are not needed. Half of it leaves room for rounding.
  const double negligible = 0.5 * (total - wanted) / candidates_.size();
  ranking_.clear();
  for (const Candidate& candidate : candidates_) {
    if (candidate.weight >= negligible) ranking_.push_back(candidate);
  }
  const size_t count = ranking_.size();
  double mass = 0;
  size_t next = 0;
  for (size_t sorted = 0; mass < wanted && next < count;) {
    if (next == sorted) {
      const auto begin = ranking_.begin() + static_cast<std::ptrdiff_t>(sorted);
      sorted = std::min(count, std::max<size_t>(64, 4 * sorted));
      const auto end = ranking_.begin() + static_cast<std::ptrdiff_t>(sorted);
      std::nth_element(begin, end - 1, ranking_.end(), IsBetter);
      std::sort(begin, end, IsBetter);
    }
    mass += ranking_[next++].weight;
  }
  const Candidate worst_kept = ranking_[next - 1];
  std::erase_if(candidates_, [&worst_kept](const Candidate& candidate) {
    return IsBetter(worst_kept, candidate);
  });
}

// The best has weight 1, so that a weight is already relative to it.
void Sampler::KeepMinP(float min_p) {
  std::erase_if(candidates_, [min_p](const Candidate& candidate) {
    return candidate.weight < min_p;
  });
}

}  // namespace engram
