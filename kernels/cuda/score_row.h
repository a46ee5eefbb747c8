// ScoreRow: a row of scores in global memory, gone over by all threads of a
// block, and the order of its ids: by descending score, then by ascending id.
#pragma once

#include <cfloat>
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

// No order of an id: what a thread tells that has seen a score that is not
// finite.
inline constexpr uint64_t kNotFinite = ~uint64_t{0};

// The order of the first of this thread's ids (0: it has none), or kNotFinite.
// As a row is read for this alone most of the time, it takes four ids at once
// and few instructions for each.
__device__ inline uint64_t BestOfFinite(const ScoreRow& row) {
  constexpr int32_t kAhead = 4;
  float best = -HUGE_VALF;
  int32_t best_id = -1;
  bool is_finite = true;
  // Ids come ascending.
  const auto visit = [&](int32_t id, float score) {
    is_finite = std::fabs(score) < HUGE_VALF && is_finite;
    score = std::fabs(score) < FLT_MIN ? 0.0f : score;
    if (score > best) {
      best = score;
      best_id = id;
    }
  };
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const auto threads = static_cast<int32_t>(blockDim.x);
  const bool aligned = reinterpret_cast<uintptr_t>(row.scores) % 16 == 0;
  const int32_t fours = aligned ? row.ids / 4 : 0;
  const auto* const source = reinterpret_cast<const float4*>(row.scores);
  for (int32_t first = thread; first < fours; first += kAhead * threads) {
    float4 scores[kAhead];
#pragma unroll
    for (int32_t i = 0; i < kAhead; ++i) {
      const int32_t four = first + i * threads;
      scores[i] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (four < fours) scores[i] = Load(source + four);
    }
#pragma unroll
    for (int32_t i = 0; i < kAhead; ++i) {
      const int32_t four = first + i * threads;
      if (four >= fours) continue;
      visit(four * 4, scores[i].x);
      visit(four * 4 + 1, scores[i].y);
      visit(four * 4 + 2, scores[i].z);
      visit(four * 4 + 3, scores[i].w);
    }
  }
  VisitScores(row.scores, fours * 4 + thread, row.ids, threads, visit);
  if (!is_finite) return kNotFinite;
  return best_id < 0 ? 0 : OrderOf(best, best_id);
}

// Of any row.
__device__ inline ScoreSurvey SurveyOfAny(const ScoreRow& row,
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

__device__ inline ScoreSurvey SurveyOf(const ScoreRow& row,
                                       BlockExchange& exchange) {
  const uint64_t best = BlockMax(BestOfFinite(row), exchange);
  if (best != kNotFinite) return {best, row.ids, true};
  return SurveyOfAny(row, exchange);
}

}  // namespace engram::cuda
