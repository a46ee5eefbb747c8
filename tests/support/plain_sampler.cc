#include "tests/support/plain_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/sampling_rule.h"

namespace engram {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

template <typename Scored>
bool IsBetter(const Scored& a, const Scored& b) {
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}

std::vector<float> Scores(absl::Span<const float> logits,
                          const TokenDraw& draw) {
  std::vector<float> scores;
  for (float logit : logits) scores.push_back(CleanScore(logit));
  const SamplingParameters& parameters = *draw.parameters;
  for (const auto& [id, bias] : parameters.logit_bias) {
    scores[id] = CleanScore(scores[id] + bias);
  }
  if (parameters.repetition_penalty != 1 && draw.seen != nullptr) {
    TokenSet seen = *draw.seen;
    if (draw.newest >= 0) seen.Insert(draw.newest);
    seen.ForEach([&](int32_t id) {
      scores[id] = AfterRepetition(scores[id], parameters.repetition_penalty);
    });
  }
  if (draw.generated != nullptr) {
    std::map<int32_t, int32_t> generated = *draw.generated;
    if (draw.newest >= 0) ++generated[draw.newest];
    for (const auto& [id, count] : generated) {
      scores[id] = AfterCount(scores[id], parameters.presence_penalty,
                              parameters.frequency_penalty, count);
    }
  }
  return scores;
}

// The mass of all.
uint64_t Total(const std::vector<PlainCandidate>& candidates) {
  uint64_t total = 0;
  for (const PlainCandidate& candidate : candidates) total += candidate.mass;
  return total;
}

// `ranking` is best first.
void KeepTopK(int32_t top_k, std::vector<PlainCandidate>* ranking) {
  if (static_cast<size_t>(top_k) >= ranking->size()) return;
  const float least = (*ranking)[top_k - 1].score;
  std::erase_if(*ranking, [least](const PlainCandidate& candidate) {
    return candidate.score < least;
  });
}

void KeepTopP(float top_p, std::vector<PlainCandidate>* ranking) {
  const uint64_t wanted = TopPMass(top_p, Total(*ranking));
  uint64_t mass = 0;
  size_t kept = 0;
  while (mass < wanted) mass += (*ranking)[kept++].mass;
  ranking->resize(kept);
}

double Largest(absl::Span<const float> logits) {
  float largest = kMasked;
  for (float logit : logits) {
    if (logit > largest) largest = logit;
  }
  return largest;
}

// Subtracting the largest logit first keeps small differences of huge ones.
double LogSoftmax(absl::Span<const float> logits, float logit) {
  const double largest = Largest(logits);
  double sum = 0;
  for (float other : logits) {
    if (other > kMasked) sum += std::exp(other - largest);
  }
  return (logit - largest) - std::log(sum);
}

}  // namespace

std::vector<PlainCandidate> PlainCandidates(absl::Span<const float> logits,
                                            const TokenDraw& draw) {
  const std::vector<float> scores = Scores(logits, draw);
  std::vector<PlainCandidate> ranking;
  for (size_t id = 0; id < scores.size(); ++id) {
    if (scores[id] > kMasked) {
      ranking.push_back({static_cast<int32_t>(id), scores[id]});
    }
  }
  if (ranking.empty()) return ranking;
  std::sort(ranking.begin(), ranking.end(), IsBetter<PlainCandidate>);
  const SamplingParameters& parameters = *draw.parameters;
  if (IsGreedy(parameters.temperature)) {
    ranking = {{ranking[0].id, ranking[0].score, 1, SamplingMass(1)}};
    return ranking;
  }
  if (parameters.top_k > 0) KeepTopK(parameters.top_k, &ranking);
  const float best = ranking[0].score;
  for (PlainCandidate& candidate : ranking) {
    candidate.weight =
        SamplingWeight(candidate.score, best, parameters.temperature);
    candidate.mass = SamplingMass(candidate.weight);
  }
  std::erase_if(ranking, [](const PlainCandidate& candidate) {
    return candidate.mass == 0;
  });
  if (parameters.top_p < 1) KeepTopP(parameters.top_p, &ranking);
  std::erase_if(ranking, [&](const PlainCandidate& candidate) {
    return candidate.weight < parameters.min_p;
  });
  std::sort(ranking.begin(), ranking.end(),
            [](const PlainCandidate& a, const PlainCandidate& b) {
              return a.id < b.id;
            });
  return ranking;
}

int32_t PlainSample(absl::Span<const float> logits, const TokenDraw& draw) {
  const std::vector<PlainCandidate> candidates = PlainCandidates(logits, draw);
  const uint64_t target = DrawnMass(
      RandomBitsAt(draw.parameters->seed, draw.index), Total(candidates));
  uint64_t mass = 0;
  for (const PlainCandidate& candidate : candidates) {
    mass += candidate.mass;
    if (mass > target) return candidate.id;
  }
  return -1;
}

float LogProbabilityOf(absl::Span<const float> logits, int32_t id) {
  if (!(logits[id] > kMasked)) return kMasked;
  return static_cast<float>(LogSoftmax(logits, logits[id]));
}

std::vector<LogProbability> TopLogProbabilities(absl::Span<const float> logits,
                                                int count) {
  struct Ranked {
    int32_t id = 0;
    float score = 0;
  };
  std::vector<Ranked> ranking;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] > kMasked) {
      ranking.push_back({static_cast<int32_t>(id), logits[id]});
    }
  }
  std::sort(ranking.begin(), ranking.end(), IsBetter<Ranked>);
  if (ranking.size() > static_cast<size_t>(count)) ranking.resize(count);
  std::vector<LogProbability> best;
  for (const Ranked& ranked : ranking) {
    best.push_back({ranked.id, LogProbabilityOf(logits, ranked.id)});
  }
  return best;
}

Outcome PlainOutcome(absl::Span<const float> logits,
                     const OutcomeRequest& request) {
  Outcome outcome;
  outcome.finite = std::all_of(logits.begin(), logits.end(), [](float logit) {
    return std::isfinite(logit);
  });
  if (request.draw.parameters != nullptr) {
    const TokenDraw& draw = request.draw;
    outcome.token = PlainSample(logits, draw);
    const bool is_stop =
        std::count(draw.stop_ids.begin(), draw.stop_ids.end(), outcome.token);
    outcome.stops =
        draw.is_last || is_stop || outcome.token < 0 || !outcome.finite;
  }
  outcome.top = TopLogProbabilities(logits, request.alternatives);
  const int32_t told = request.scored >= 0        ? request.scored
                       : request.alternatives > 0 ? outcome.token
                                                  : -1;
  if (told >= 0) outcome.log_probability = LogProbabilityOf(logits, told);
  return outcome;
}

}  // namespace engram
