// A cut is found digit by digit of the scores' keys, from the highest: a
// histogram of counts or masses tells in which digit it lies. That of masses is
// looked for first in bins of the distance to the best score, one pass of which
// is mostly enough.
#include "kernels/cpu/cuts.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/cuts.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/sampling_rule-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {
// Of a key's 32 bits, from the highest.
struct Digit {
  int shift;
  int bits;
};
constexpr Digit kDigits[] = {{21, 11}, {10, 11}, {0, 10}};
constexpr int kBins = 1 << 11;
using Histogram = uint64_t[kBins];

// What a cut is measured in.
enum class Measure { kCount, kMass };

template <Measure kMeasure>
HWY_INLINE uint64_t MeasureOf(const OutcomeStrip& strip, int64_t id) {
  return kMeasure == Measure::kCount ? 1 : SamplingMass(strip.weights[id]);
}

// Bins of all ids. Neighbours go to histograms of their own, so that an
// addition need not wait for the one before it.
template <Measure kMeasure, class Bins>
HWY_INLINE void CountAll(const OutcomeStrip& strip, const Bins& bins,
                         Histogram& histogram) {
  constexpr int kCopies = 4;
  alignas(64) static thread_local uint64_t copies[kCopies][kBins];
  std::memset(copies, 0, sizeof(copies));
  const FloatTag tag;
  HWY_ALIGN uint32_t bin_of[kOutcomeBlock];
  HWY_ALIGN uint64_t measures[kOutcomeBlock];
  std::fill(measures, measures + kOutcomeBlock, 1);
  for (int64_t block = 0; block < strip.ids; block += kOutcomeBlock) {
    for (int64_t i = 0; i < kOutcomeBlock; i += kLanes) {
      hn::Store(bins(hn::LoadU(tag, strip.scores + block + i)), KeyTag(),
                bin_of + i);
    }
    if constexpr (kMeasure == Measure::kMass) {
      for (int64_t i = 0; i < kOutcomeBlock; i += kDoubleLanes) {
        hn::Store(Masses(strip.weights + block + i), MassTag(), measures + i);
      }
    }
    for (int64_t i = 0; i < kOutcomeBlock; i += kCopies) {
      for (int copy = 0; copy < kCopies; ++copy) {
        copies[copy][bin_of[i + copy]] += measures[i + copy];
      }
    }
  }
  for (int bin = 0; bin < kBins; ++bin) {
    histogram[bin] =
        copies[0][bin] + copies[1][bin] + copies[2][bin] + copies[3][bin];
  }
}

struct FirstDigit {
  HWY_INLINE KeyVector operator()(FloatVector score) const {
    return hn::ShiftRight<kDigits[0].shift>(Keys(score));
  }
};

// A later digit, for which only ids count whose higher digits are `prefix`.
template <Measure kMeasure>
HWY_INLINE void CountDigit(const OutcomeStrip& strip, const Digit& digit,
                           uint32_t prefix, Histogram& histogram) {
  const FloatTag tag;
  const uint32_t mask = (1u << digit.bits) - 1;
  const KeyVector lowest =
      hn::Set(KeyTag(), prefix << (digit.shift + digit.bits));
  const KeyVector fixed = hn::Set(KeyTag(), ~0u << (digit.shift + digit.bits));
  std::fill(histogram, histogram + kBins, 0);
  for (int64_t i = 0; i < strip.ids; i += kLanes) {
    const KeyVector keys = Keys(hn::LoadU(tag, strip.scores + i));
    if (hn::AllFalse(KeyTag(), hn::Eq(hn::And(keys, fixed), lowest))) continue;
    for (int64_t id = i; id < i + kLanes; ++id) {
      const uint32_t key = ScoreKey(strip.scores[id]);
      if (key >> (digit.shift + digit.bits) != prefix) continue;
      histogram[(key >> digit.shift) & mask] += MeasureOf<kMeasure>(strip, id);
    }
  }
}

template <Measure kMeasure>
Cut FindCut(const OutcomeStrip& strip, uint64_t wanted) {
  Cut cut{.rest = wanted};
  alignas(64) Histogram histogram;
  for (const Digit& digit : kDigits) {
    if (digit.shift == kDigits[0].shift) {
      CountAll<kMeasure>(strip, FirstDigit(), histogram);
    } else {
      CountDigit<kMeasure>(strip, digit, cut.key, histogram);
    }
    uint32_t bin = (1u << digit.bits) - 1;
    for (; histogram[bin] < cut.rest; --bin) cut.rest -= histogram[bin];
    cut.key = (cut.key << digit.bits) | bin;
  }
  return cut;
}

Cut CountCut(const OutcomeStrip& strip, uint64_t wanted) {
  return FindCut<Measure::kCount>(strip, wanted);
}

// The distance to the best score in parts of what still has mass: one bin in
// kBins - 1 of it, and what lies beyond in the last.
class DistanceBins {
 public:
  DistanceBins(float best, float temperature)
      : best_(best),
        // exp(-28) is below 2^-40. Nothing to be multiplied by 0 is infinite.
        scale_(std::min((kBins - 1) / (28.0f * temperature), 1e38f)) {}

  HWY_INLINE KeyVector operator()(FloatVector score) const {
    const FloatVector best = Constant(best_);
    const FloatVector distance = hn::IfThenElse(
        hn::Eq(score, best), Constant(0.0f), hn::Sub(best, score));
    const FloatVector bin =
        hn::Min(hn::Mul(distance, Constant(scale_)), Constant(kBins - 1));
    return hn::BitCast(KeyTag(),
                       hn::ConvertTo(hn::RebindToSigned<FloatTag>(), bin));
  }

 private:
  const float best_;
  const float scale_;
};

// The ids of a bin, unless they are too many: then -1.
constexpr int64_t kFewIds = 1024;
HWY_INLINE int64_t IdsOfBin(const OutcomeStrip& strip, const DistanceBins& bins,
                            uint32_t bin, int32_t* ids) {
  const FloatTag tag;
  int64_t count = 0;
  for (int64_t i = 0; i < strip.ids; i += kLanes) {
    const auto in_bin =
        hn::Eq(bins(hn::LoadU(tag, strip.scores + i)), hn::Set(KeyTag(), bin));
    if (hn::AllFalse(KeyTag(), in_bin)) continue;
    if (count + kLanes > kFewIds) return -1;
    HWY_ALIGN uint32_t lanes[kLanes];
    hn::Store(hn::VecFromMask(KeyTag(), in_bin), KeyTag(), lanes);
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      if (lanes[lane] != 0) ids[count++] = static_cast<int32_t>(i + lane);
    }
  }
  return count;
}

// The same cut as FindCut by mass. Bins are ordered as scores are, so that only
// those of the bin in which it lies need to be looked at one by one; they are
// few unless scores crowd together.
Cut MassCut(const OutcomeStrip& strip, float best, float temperature,
            uint64_t wanted) {
  const DistanceBins bins(best, temperature);
  alignas(64) Histogram histogram;
  CountAll<Measure::kMass>(strip, bins, histogram);
  Cut cut{.rest = wanted};
  uint32_t bin = 0;
  for (; histogram[bin] < cut.rest; ++bin) cut.rest -= histogram[bin];
  int32_t ids[kFewIds];
  const int64_t count = IdsOfBin(strip, bins, bin, ids);
  if (count < 0) return FindCut<Measure::kMass>(strip, wanted);
  std::sort(ids, ids + count, [&strip](int32_t a, int32_t b) {
    return strip.scores[a] > strip.scores[b];
  });
  uint64_t mass = 0;  // of the ids with the score that is looked at
  for (int64_t i = 0; i < count; ++i) {
    const float score = strip.scores[ids[i]];
    mass += SamplingMass(strip.weights[ids[i]]);
    if (i + 1 < count && strip.scores[ids[i + 1]] == score) continue;
    if (mass >= cut.rest) {
      cut.key = ScoreKey(score);
      break;
    }
    cut.rest -= mass;
    mass = 0;
  }
  return cut;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {

HWY_EXPORT(CountCut);
HWY_EXPORT(MassCut);

Cut FindCountCut(const OutcomeStrip& strip, uint64_t wanted) {
  return HWY_DYNAMIC_DISPATCH(CountCut)(strip, wanted);
}

Cut FindMassCut(const OutcomeStrip& strip, float best, float temperature,
                uint64_t wanted) {
  return HWY_DYNAMIC_DISPATCH(MassCut)(strip, best, temperature, wanted);
}

}  // namespace engram::cpu
#endif  // HWY_ONCE
