// Cuts: how far down the order of a row's ids (score_row.h) a sum of measures
// reaches what is wanted; counts for top_k and alternatives, masses for top_p.
//
// One pass adds the measures up in bins of the distance to the best score, a
// second gathers the ids of the bin in which the cut lies. They are few unless
// scores crowd together; then the cut is found digit by digit of the order.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/integer_sums.h"
#include "kernels/cuda/score_row.h"

namespace engram::cuda {

inline constexpr int32_t kCutBins = 1 << 11;
inline constexpr uint32_t kFewIds = 512;

// Sums of measures in shared memory, in two words each: atomic additions of 32
// bits are one instruction, of 64 a loop.
struct MeasureBins {
  uint32_t low[kCutBins];
  uint32_t high[kCutBins];

  __device__ void Clear() {
    for (auto bin = static_cast<int32_t>(threadIdx.x); bin < kCutBins;
         bin += static_cast<int32_t>(blockDim.x)) {
      low[bin] = 0;
      high[bin] = 0;
    }
  }
  __device__ void Add(int32_t bin, uint64_t measure) {
    if (measure == 0) return;
    const auto added = static_cast<uint32_t>(measure);
    const uint32_t sum = AtomicAdd(&low[bin], added) + added;
    const uint32_t carry = sum < added ? 1 : 0;
    const uint32_t upper = static_cast<uint32_t>(measure >> 32) + carry;
    if (upper != 0) AtomicAdd(&high[bin], upper);
  }
  __device__ uint64_t Of(int32_t bin) const {
    return uint64_t{high[bin]} << 32 | low[bin];
  }
};

// Shared memory of a search.
struct CutSearch {
  BlockExchange exchange;
  MeasureBins bins;
  uint32_t few_ids;
  uint64_t few_orders[kFewIds];
  uint64_t few_measures[kFewIds];
  uint64_t cut;
};

// The distance to the best score in parts of what still has mass: one bin in
// kCutBins - 1 of it, and what lies beyond in the last.
class DistanceBins {
 public:
  static constexpr int32_t kBeyond = kCutBins - 1;

  __device__ DistanceBins(float best, float temperature) : best_(best) {
    // exp(-28) is below 2^-40. Nothing to be multiplied by 0 is infinite.
    const float scale = kBeyond / (28.0f * temperature);
    scale_ = scale < 1e38f ? scale : 1e38f;
  }

  __device__ int32_t operator()(float score) const {
    const float distance = score == best_ ? 0.0f : best_ - score;
    const float bin = distance * scale_;
    return bin < kBeyond ? static_cast<int32_t>(bin) : kBeyond;
  }

 private:
  float best_;
  float scale_;
};

// Each of the few is compared with all others.
__device__ inline uint64_t CutAmongFew(uint64_t wanted, CutSearch& search) {
  const uint32_t few = search.few_ids;
  for (uint32_t i = threadIdx.x; i < few; i += blockDim.x) {
    const uint64_t order = search.few_orders[i];
    uint64_t before = 0;
    for (uint32_t j = 0; j < few; ++j) {
      before += search.few_orders[j] > order ? search.few_measures[j] : 0;
    }
    if (before < wanted && wanted <= before + search.few_measures[i]) {
      search.cut = order;
    }
  }
  BlockBarrier();
  return search.cut;
}

// Digits of 11, 11 and 10 bits of the score's key, then as many of the id's.
template <class Measure>
__device__ inline uint64_t CutByDigits(const ScoreRow& row, uint64_t wanted,
                                       const Measure& measure_of,
                                       CutSearch& search) {
  uint64_t prefix = 0;
  for (int shift = 64, bits = 11; shift > 0;) {
    bits = shift == 42 || shift == 10 ? 10 : 11;
    const int above = shift;
    shift -= bits;
    const int32_t largest = (1 << bits) - 1;
    search.bins.Clear();
    BlockBarrier();
    row.VisitAll([&](int32_t id, float score) {
      const uint64_t order = OrderOf(score, id);
      if (above < 64 && order >> above != prefix) return;
      const auto digit = static_cast<int32_t>(order >> shift) & largest;
      search.bins.Add(largest - digit, measure_of(id, score));
    });
    BlockBarrier();
    const Place place = FindPlace(
        largest + 1, [&](int32_t bin) { return search.bins.Of(bin); },
        [&](uint64_t) { return wanted; }, search.exchange);
    prefix = prefix << bits | static_cast<uint32_t>(largest - place.item);
    wanted = place.rest;
    if (place.is_needed_whole) return prefix << shift;
  }
  return prefix;
}

// The ids whose order is at least what is returned are those that are needed,
// from the best on, for measure_of(id, score) to sum up to wanted_of(the sum of
// all). Of ids that measure 0 there may be more.
// REQUIRES: 1 <= what is wanted <= the sum of all.
template <class Measure, class Wanted>
__device__ inline uint64_t FindCut(const ScoreRow& row,
                                   const DistanceBins& bins,
                                   const Measure& measure_of,
                                   const Wanted& wanted_of, CutSearch& search) {
  search.bins.Clear();
  if (threadIdx.x == 0) search.few_ids = 0;
  BlockBarrier();
  row.VisitAll([&](int32_t id, float score) {
    search.bins.Add(bins(score), measure_of(id, score));
  });
  BlockBarrier();
  const Place place = FindPlace(
      kCutBins, [&](int32_t bin) { return search.bins.Of(bin); }, wanted_of,
      search.exchange);
  row.VisitAll([&](int32_t id, float score) {
    if (bins(score) != place.item) return;
    const uint32_t index = AtomicAdd(&search.few_ids, 1u);
    if (index >= kFewIds) return;
    search.few_orders[index] = OrderOf(score, id);
    search.few_measures[index] = measure_of(id, score);
  });
  BlockBarrier();
  if (search.few_ids <= kFewIds) return CutAmongFew(place.rest, search);
  return CutByDigits(row, place.wanted, measure_of, search);
}

// Likewise for the `count` best ids.
__device__ inline uint64_t FindCutOfBest(const ScoreRow& row, float best,
                                         int32_t count, CutSearch& search) {
  return FindCut(
      row, DistanceBins(best, 1.0f),
      [](int32_t, float) -> uint64_t { return 1; },
      [&](uint64_t) { return static_cast<uint64_t>(count); }, search);
}

}  // namespace engram::cuda
