// Log-probabilities sum in kPartials partial sums whatever the width of a
// vector, so no processor tells another one.
#include "kernels/cpu/log_probabilities.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/log_probabilities.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/sampling_rule-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {
constexpr int64_t kPartials = 16;
static_assert(kPartials % kLanes == 0 && kOutcomeBlock % kPartials == 0);

// log Σ exp(score - highest).
HWY_INLINE double LogOfSum(const OutcomeStrip& strip, float highest) {
  for (int64_t i = 0; i < strip.ids; i += kLanes) {
    const FloatVector score = hn::LoadU(FloatTag(), strip.scores + i);
    hn::StoreU(Weights(score, highest, 1.0f), FloatTag(), strip.weights + i);
  }
  constexpr int64_t kVectors = kPartials / kDoubleLanes;
  DoubleVector sums[kVectors];
  for (DoubleVector& sum : sums) sum = hn::Zero(DoubleTag());
  for (int64_t i = 0; i < strip.ids; i += kPartials) {
    for (int64_t v = 0; v < kVectors; ++v) {
      sums[v] =
          hn::Add(sums[v], LoadDoubles(strip.weights + i + v * kDoubleLanes));
    }
  }
  HWY_ALIGN double partials[kPartials];
  for (int64_t v = 0; v < kVectors; ++v) {
    hn::Store(sums[v], DoubleTag(), partials + v * kDoubleLanes);
  }
  for (int64_t width = kPartials / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) partials[i] += partials[i + width];
  }
  return std::log(partials[0]);
}

// Most vectors have nothing above the last of them.
void BestIdsOf(const OutcomeStrip& strip, int32_t count,
               std::vector<LogProbability>* best) {
  const FloatTag tag;
  best->clear();
  if (count < 1) return;
  float least = kMasked;  // a score must be above it to enter
  for (int64_t i = 0; i < strip.ids; i += kLanes) {
    if (hn::AllFalse(
            tag, hn::Gt(hn::LoadU(tag, strip.scores + i), Constant(least)))) {
      continue;
    }
    for (int64_t id = i; id < i + kLanes; ++id) {
      const float score = strip.scores[id];
      if (!(score > least)) continue;
      if (best->size() == static_cast<size_t>(count)) best->pop_back();
      const auto place = std::find_if(
          best->begin(), best->end(),
          [score](const LogProbability& other) { return other.value < score; });
      best->insert(place, {static_cast<int32_t>(id), score});
      if (best->size() == static_cast<size_t>(count)) {
        least = best->back().value;
      }
    }
  }
}

LogNormalizer LogNormalizerOf(const OutcomeStrip& strip) {
  const float highest = HighestOf(strip);
  return {double{highest}, LogOfSum(strip, highest)};
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {

HWY_EXPORT(BestIdsOf);
HWY_EXPORT(LogNormalizerOf);

LogNormalizer FindLogNormalizer(const OutcomeStrip& strip) {
  return HWY_DYNAMIC_DISPATCH(LogNormalizerOf)(strip);
}

void BestIds(const OutcomeStrip& strip, int32_t count,
             std::vector<LogProbability>* best) {
  HWY_DYNAMIC_DISPATCH(BestIdsOf)(strip, count, best);
}

}  // namespace engram::cpu
#endif  // HWY_ONCE
