// kernels/sampling_rule.h in vectors, over the strip of a row; compiled once
// per target of Highway.

// A toggled guard instead of #pragma once: foreach_target.h includes the file
// once per target.
#if defined(ENGRAM_KERNELS_CPU_SAMPLING_RULE_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef ENGRAM_KERNELS_CPU_SAMPLING_RULE_INL_H_
#undef ENGRAM_KERNELS_CPU_SAMPLING_RULE_INL_H_
#else
#define ENGRAM_KERNELS_CPU_SAMPLING_RULE_INL_H_
#endif

#include <algorithm>
#include <cfloat>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"
#include "kernels/cpu/outcome_strip.h"
#include "kernels/sampling_rule.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(FloatTag());
static_assert(kOutcomeBlock % kLanes == 0);

using KeyTag = hn::RebindToUnsigned<FloatTag>;
using KeyVector = hn::Vec<KeyTag>;
using DoubleTag = hn::ScalableTag<double>;
using DoubleVector = hn::Vec<DoubleTag>;
using MassTag = hn::RebindToUnsigned<DoubleTag>;
using MassVector = hn::Vec<MassTag>;
constexpr int64_t kDoubleLanes = hn::MaxLanes(DoubleTag());

HWY_INLINE DoubleVector LoadDoubles(const float* source) {
  return hn::PromoteTo(DoubleTag(),
                       hn::LoadU(hn::Rebind<float, DoubleTag>(), source));
}

// As CleanScore.
HWY_INLINE FloatVector Clean(FloatVector score) {
  const FloatVector zero = Constant(0.0f);
  score =
      hn::IfThenElse(hn::Lt(hn::Abs(score), Constant(FLT_MIN)), zero, score);
  return hn::IfThenElse(hn::Eq(score, score), score, Constant(kMasked));
}

// As ScoreKey.
HWY_INLINE KeyVector Keys(FloatVector score) {
  const KeyTag tag;
  const KeyVector bits = hn::BitCast(tag, score);
  const KeyVector sign = hn::Set(tag, 0x80000000u);
  const KeyVector negative = hn::BitCast(
      tag,
      hn::BroadcastSignBit(hn::BitCast(hn::RebindToSigned<FloatTag>(), score)));
  return hn::Xor(bits, hn::Or(negative, sign));
}

// As SamplingWeight. Without fused multiply-add a vector would round otherwise.
HWY_INLINE FloatVector Weights(FloatVector score, float best,
                               float temperature) {
#if HWY_NATIVE_FMA
  const FloatVector highest = Constant(best);
  const FloatVector distance = Clean(hn::Sub(score, highest));
  const FloatVector weight = Exp(hn::Div(distance, Constant(temperature)));
  return hn::IfThenElse(hn::Eq(score, highest), Constant(1.0f), weight);
#else
  HWY_ALIGN float lanes[kLanes];
  hn::Store(score, FloatTag(), lanes);
  for (float& lane : lanes) lane = SamplingWeight(lane, best, temperature);
  return hn::Load(FloatTag(), lanes);
#endif
}

// As SamplingMass. The lowest bits of 2^52 + n are n.
HWY_INLINE MassVector Masses(const float* weights) {
  const DoubleTag tag;
  const DoubleVector units = hn::Floor(
      hn::Mul(LoadDoubles(weights), hn::Set(tag, double{kMassOfBest})));
  const DoubleVector shifter = hn::Set(tag, 0x1p52);
  return hn::Xor(hn::BitCast(MassTag(), hn::Add(units, shifter)),
                 hn::BitCast(MassTag(), shifter));
}

// The mass of a block of weights.
HWY_INLINE uint64_t BlockMass(const float* weights) {
  MassVector sum = hn::Zero(MassTag());
  for (int64_t i = 0; i < kOutcomeBlock; i += kDoubleLanes) {
    sum = hn::Add(sum, Masses(weights + i));
  }
  HWY_ALIGN uint64_t lanes[kDoubleLanes];
  hn::Store(sum, MassTag(), lanes);
  uint64_t mass = 0;
  for (uint64_t lane : lanes) mass += lane;
  return mass;
}

HWY_INLINE float HighestOf(const OutcomeStrip& strip) {
  const FloatTag tag;
  FloatVector highest = Constant(kMasked);
  for (int64_t i = 0; i < strip.ids; i += kLanes) {
    highest = hn::Max(highest, hn::LoadU(tag, strip.scores + i));
  }
  HWY_ALIGN float lanes[kLanes];
  hn::Store(highest, tag, lanes);
  return *std::max_element(lanes, lanes + kLanes);
}

// Calls change(i) for every vector of weights, and sums up the masses.
template <class Change>
HWY_INLINE void ChangeWeights(const OutcomeStrip& strip, const Change& change) {
  for (int64_t block = 0; block < strip.ids; block += kOutcomeBlock) {
    for (int64_t i = block; i < block + kOutcomeBlock; i += kLanes) change(i);
    strip.masses[block / kOutcomeBlock] = BlockMass(strip.weights + block);
  }
}

HWY_INLINE uint64_t TotalMass(const OutcomeStrip& strip) {
  uint64_t total = 0;
  for (int64_t block = 0; block < strip.ids / kOutcomeBlock; ++block) {
    total += strip.masses[block];
  }
  return total;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
