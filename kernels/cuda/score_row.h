// ScoreRow: a row of scores in global memory, gone over by all threads of a
// block, and the order of its ids: by descending score, then by ascending id.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cuda/device.h"
#include "kernels/cuda/integer_sums.h"
#include "kernels/sampling_rule.h"

namespace engram::cuda {

// Larger for an id that comes before another; of clean scores.
__device__ inline uint64_t OrderOf(float score, int32_t id) {
  return uint64_t{ScoreKey(score)} << 32 | ~static_cast<uint32_t>(id);
}
__device__ inline int32_t IdOfOrder(uint64_t order) {
  return static_cast<int32_t>(~static_cast<uint32_t>(order));
}
__device__ inline float ScoreOfOrder(uint64_t order) {
  const auto key = static_cast<uint32_t>(order >> 32);
  const uint32_t bits = (key & 0x80000000u) != 0 ? key & ~0x80000000u : ~key;
  float score;
  memcpy(&score, &bits, sizeof(score));
  return score;
}

// Calls visit(id, clean score) for first, first + step, ... below `end`. Four
// loads are on their way together.
template <class Visit>
__device__ inline void VisitScores(const float* scores, int32_t first,
                                   int32_t end, int32_t step,
                                   const Visit& visit) {
  int32_t id = first;
  for (; id < end - 3 * step; id += 4 * step) {
    const float score0 = Load(scores + id);
    const float score1 = Load(scores + id + step);
    const float score2 = Load(scores + id + 2 * step);
    const float score3 = Load(scores + id + 3 * step);
    visit(id, CleanScore(score0));
    visit(id + step, CleanScore(score1));
    visit(id + 2 * step, CleanScore(score2));
    visit(id + 3 * step, CleanScore(score3));
  }
  for (; id < end; id += step) visit(id, CleanScore(Load(scores + id)));
}

struct ScoreRow {
  const float* scores;  // [ids], global
  int32_t ids;

  __device__ float At(int32_t id) const {
    return CleanScore(Load(scores + id));
  }
  // Every id is visited by one thread.
  template <class Visit>
  __device__ void VisitAll(const Visit& visit) const {
    VisitScores(scores, static_cast<int32_t>(threadIdx.x), ids,
                static_cast<int32_t>(blockDim.x), visit);
  }
};

// What one pass over a row tells.
struct ScoreSurvey {
  uint64_t best;       // the order of the first id; its score may be -infinity
  int32_t candidates;  // scores above -infinity
  bool is_finite;      // all scores are, also before they were clean
};

__device__ inline ScoreSurvey SurveyOf(const ScoreRow& row,
                                       BlockExchange& exchange) {
  constexpr uint64_t kInfinite = uint64_t{1} << 32;
  uint64_t best = 0;
  uint64_t counts = 0;  // of those that are infinite, and of candidates
  row.VisitAll([&](int32_t id, float score) {
    const uint64_t order = OrderOf(score, id);
    best = order > best ? order : best;
    if (score > -HUGE_VALF) ++counts;
    if (std::fabs(score) == HUGE_VALF) counts += kInfinite;
  });
  best = BlockMax(best, exchange);
  counts = BlockSum(counts, exchange);
  return {best, static_cast<int32_t>(counts % kInfinite), counts < kInfinite};
}

}  // namespace engram::cuda
