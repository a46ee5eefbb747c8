// Draws: a token from a row's scores, by the rule of kernels/outcomes.h. All
// threads of a block call these functions together.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/integer_sums.h"
#include "kernels/cuda/outcome_rows.h"
#include "kernels/cuda/score_cuts.h"
#include "kernels/cuda/score_row.h"
#include "kernels/sampling_rule.h"

namespace engram::cuda {

// Shared memory of a draw.
struct DrawSearch {
  CutSearch cut;
  uint64_t mass_of_warp[kMostBlockWarps];
};

template <class T>
__device__ inline const T* ListAt(const std::byte* upload,
                                  const UploadedList& list) {
  return reinterpret_cast<const T*>(upload + list.at);
}

__device__ inline bool ChangesScores(const OutcomeRow& request) {
  return request.biased.count > 0 || request.seen.count > 0 ||
         request.penalises_counts != 0;
}

__device__ inline void PenaliseSeen(const OutcomeRow& request,
                                    const std::byte* upload, int32_t ids,
                                    float* strip) {
  const uint32_t* const seen = ListAt<uint32_t>(upload, request.seen);
  ScoreRow{strip, ids}.VisitAll([&](int32_t id, float score) {
    const bool is_seen = (Load(seen + id / 32) >> (id % 32) & 1) != 0;
    if (!is_seen && id != request.newest) return;
    Store(strip + id, AfterRepetition(score, request.repetition_penalty));
  });
}

__device__ inline void PenaliseCounts(const OutcomeRow& request,
                                      const std::byte* upload, float* strip,
                                      BlockExchange& exchange) {
  const auto penalise = [&](int32_t id, int32_t count) {
    Store(strip + id, AfterCount(Load(strip + id), request.presence_penalty,
                                 request.frequency_penalty, count));
  };
  const CountedId* const counted = ListAt<CountedId>(upload, request.counted);
  bool counts_newest = false;
  for (auto i = static_cast<int32_t>(threadIdx.x); i < request.counted.count;
       i += static_cast<int32_t>(blockDim.x)) {
    const CountedId one = Load(counted + i);
    const bool is_newest = one.id == request.newest;
    penalise(one.id, one.count + (is_newest ? 1 : 0));
    counts_newest = counts_newest || is_newest;
  }
  const bool is_counted = BlockMax(counts_newest ? 1 : 0, exchange) != 0;
  if (threadIdx.x == 0 && request.newest >= 0 && !is_counted) {
    penalise(request.newest, 1);
  }
}

// Leaves the scores behind bias and penalties in `strip`.
__device__ inline void Penalise(const OutcomeRow& request,
                                const std::byte* upload, const ScoreRow& raw,
                                float* strip, BlockExchange& exchange) {
  raw.VisitAll([&](int32_t id, float score) { Store(strip + id, score); });
  BlockBarrier();
  const BiasedId* const biased = ListAt<BiasedId>(upload, request.biased);
  for (auto i = static_cast<int32_t>(threadIdx.x); i < request.biased.count;
       i += static_cast<int32_t>(blockDim.x)) {
    const BiasedId one = Load(biased + i);
    Store(strip + one.id, CleanScore(Load(strip + one.id) + one.bias));
  }
  BlockBarrier();
  if (request.seen.count > 0) PenaliseSeen(request, upload, raw.ids, strip);
  BlockBarrier();
  if (request.penalises_counts != 0) {
    PenaliseCounts(request, upload, strip, exchange);
  }
  BlockBarrier();
}

// Which ids are left, and their masses.
struct DrawRule {
  float best;
  float temperature;
  float min_p;
  uint64_t least_order;  // of what top_k and top_p leave

  __device__ uint64_t MassOf(int32_t id, float score) const {
    if (OrderOf(score, id) < least_order) return 0;
    const float weight = SamplingWeight(score, best, temperature);
    return weight < min_p ? 0 : SamplingMass(weight);
  }
};

__device__ inline void KeepTopK(const ScoreRow& row, int32_t top_k,
                                DrawRule* rule, CutSearch& search) {
  const uint64_t cut = FindCutOfBest(row, rule->best, top_k, search);
  constexpr uint64_t kKeyBits = ~uint64_t{0xffffffffu};
  rule->least_order = cut & kKeyBits;  // ties with the k-th survive
}

__device__ inline void KeepTopP(const ScoreRow& row, float top_p,
                                DrawRule* rule, CutSearch& search) {
  const DrawRule before = *rule;
  rule->least_order = FindCut(
      row, DistanceBins(rule->best, rule->temperature),
      [&](int32_t id, float score) { return before.MassOf(id, score); },
      [&](uint64_t total) { return TopPMass(top_p, total); }, search);
}

// The first id with which the running mass passes the random one: looked for
// first among warps, each of which adds up a part of the row, then in the part.
__device__ inline int32_t DrawByMass(const ScoreRow& row, const DrawRule& rule,
                                     uint64_t bits, DrawSearch& search) {
  const int32_t warps = BlockWarps();
  const int32_t part = ((row.ids + warps - 1) / warps + 31) / 32 * 32;
  const auto end_of = [&](int32_t first) {
    return first + part < row.ids ? first + part : row.ids;
  };
  const int32_t own = Warp() * part;
  uint64_t mass = 0;
  VisitScores(row.scores, own + Lane(), end_of(own), 32,
              [&](int32_t id, float score) { mass += rule.MassOf(id, score); });
  mass = WarpSum(mass);
  if (Lane() == 0) search.mass_of_warp[Warp()] = mass;
  BlockBarrier();
  const Place warp = FindPlace(
      warps, [&](int32_t item) { return search.mass_of_warp[item]; },
      [&](uint64_t total) { return DrawnMass(bits, total) + 1; },
      search.cut.exchange);
  const int32_t first = warp.item * part;
  const Place place = FindPlace(
      end_of(first) - first,
      [&](int32_t item) {
        return rule.MassOf(first + item, row.At(first + item));
      },
      [&](uint64_t) { return warp.rest; }, search.cut.exchange);
  return first + place.item;
}

// -1: no score is above -infinity. `survey` is of `row`, whose scores are those
// behind bias and penalties.
__device__ inline int32_t DrawToken(const OutcomeRow& request,
                                    const ScoreRow& row,
                                    const ScoreSurvey& survey,
                                    DrawSearch& search) {
  if (survey.candidates == 0) return -1;
  if (IsGreedy(request.temperature)) return IdOfOrder(survey.best);
  DrawRule rule = {.best = ScoreOfOrder(survey.best),
                   .temperature = request.temperature,
                   .min_p = 0,
                   .least_order = 0};
  if (request.top_k > 0 && request.top_k < survey.candidates) {
    KeepTopK(row, request.top_k, &rule, search.cut);
  }
  if (request.top_p < 1) KeepTopP(row, request.top_p, &rule, search.cut);
  rule.min_p = request.min_p;
  return DrawByMass(row, rule, RandomBitsAt(request.seed, request.index),
                    search);
}

}  // namespace engram::cuda
