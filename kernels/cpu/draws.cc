// A draw goes over the strip once for the weights, and with top_k or top_p
// three times each for their cut and once to leave out what is below it. All
// sums are of integers, so no processor draws another token.
#include "kernels/cpu/draws.h"

#include "kernels/cpu/cuts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/draws.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/sampling_rule-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {
// The lowest id with this score. REQUIRES: there is one.
HWY_INLINE int32_t FirstWith(float score, const OutcomeStrip& strip) {
  const FloatTag tag;
  for (int64_t i = 0;; i += kLanes) {
    const intptr_t lane = hn::FindFirstTrue(
        tag, hn::Eq(hn::LoadU(tag, strip.scores + i), Constant(score)));
    if (lane >= 0) return static_cast<int32_t>(i + lane);
  }
}

// Masks scores below the k-th highest.
HWY_INLINE void KeepTopK(int32_t top_k, const OutcomeStrip& strip) {
  const FloatTag tag;
  uint64_t candidates = 0;
  for (int64_t i = 0; i < strip.ids; i += kLanes) {
    candidates += hn::CountTrue(
        tag, hn::Gt(hn::LoadU(tag, strip.scores + i), Constant(kMasked)));
  }
  if (candidates <= static_cast<uint64_t>(top_k)) return;
  const Cut cut = FindCountCut(strip, top_k);
  const KeyVector least = hn::Set(KeyTag(), cut.key);
  for (int64_t i = 0; i < strip.ids; i += kLanes) {
    const FloatVector score = hn::LoadU(tag, strip.scores + i);
    const auto below = hn::RebindMask(tag, hn::Lt(Keys(score), least));
    hn::StoreU(hn::IfThenElse(below, Constant(kMasked), score), tag,
               strip.scores + i);
  }
}

// Gives weight 0 to what is not needed to reach top_p: to scores below the cut,
// and of those at the cut to all but the first.
HWY_INLINE void KeepTopP(const SamplingParameters& parameters, float best,
                         const OutcomeStrip& strip) {
  const FloatTag tag;
  const uint64_t wanted_mass = TopPMass(parameters.top_p, TotalMass(strip));
  const Cut cut = FindMassCut(strip, best, parameters.temperature, wanted_mass);
  const KeyVector last = hn::Set(KeyTag(), cut.key);
  int64_t wanted = -1;  // of the ids at the cut; not known yet
  ChangeWeights(strip, [&](int64_t i) HWY_ATTR {
    const KeyVector keys = Keys(hn::LoadU(tag, strip.scores + i));
    const FloatVector weight = hn::LoadU(tag, strip.weights + i);
    const auto below = hn::RebindMask(tag, hn::Lt(keys, last));
    hn::StoreU(hn::IfThenZeroElse(below, weight), tag, strip.weights + i);
    if (hn::AllFalse(KeyTag(), hn::Eq(keys, last))) return;
    for (int64_t id = i; id < i + kLanes; ++id) {
      if (ScoreKey(strip.scores[id]) != cut.key) continue;
      if (wanted < 0) {
        wanted = IdsToReach(cut.rest, SamplingMass(strip.weights[id]));
      }
      if (wanted == 0) {
        strip.weights[id] = 0;
      } else {
        --wanted;
      }
    }
  });
}

HWY_INLINE void KeepMinP(float min_p, const OutcomeStrip& strip) {
  const FloatTag tag;
  ChangeWeights(strip, [&](int64_t i) HWY_ATTR {
    const FloatVector weight = hn::LoadU(tag, strip.weights + i);
    const auto below = hn::Lt(weight, Constant(min_p));
    hn::StoreU(hn::IfThenZeroElse(below, weight), tag, strip.weights + i);
  });
}

// The first id with which the running mass passes the random one.
HWY_INLINE int32_t DrawByMass(const OutcomeStrip& strip, uint64_t bits) {
  const uint64_t target = DrawnMass(bits, TotalMass(strip));
  uint64_t mass = 0;
  int64_t block = 0;
  for (; mass + strip.masses[block] <= target; ++block) {
    mass += strip.masses[block];
  }
  int64_t id = block * kOutcomeBlock;
  for (;; ++id) {
    mass += SamplingMass(strip.weights[id]);
    if (mass > target) return static_cast<int32_t>(id);
  }
}

HWY_INLINE void Penalise(const TokenDraw& draw, const OutcomeStrip& strip) {
  const SamplingParameters& parameters = *draw.parameters;
  float* const scores = strip.scores;
  for (const auto& [id, bias] : parameters.logit_bias) {
    scores[id] = CleanScore(scores[id] + bias);
  }
  const float repetition = parameters.repetition_penalty;
  if (repetition != 1 && draw.seen != nullptr) {
    const auto penalise = [scores, repetition](int32_t id) {
      scores[id] = AfterRepetition(scores[id], repetition);
    };
    draw.seen->ForEach(penalise);
    if (draw.newest >= 0 && !draw.seen->Contains(draw.newest)) {
      penalise(draw.newest);
    }
  }
  const float presence = parameters.presence_penalty;
  const float frequency = parameters.frequency_penalty;
  if ((presence == 0 && frequency == 0) || draw.generated == nullptr) return;
  for (const auto& [id, count] : *draw.generated) {
    scores[id] = AfterCount(scores[id], presence, frequency,
                            count + (id == draw.newest ? 1 : 0));
  }
  if (draw.newest >= 0 && !draw.generated->contains(draw.newest)) {
    scores[draw.newest] =
        AfterCount(scores[draw.newest], presence, frequency, 1);
  }
}

int32_t DrawOf(const TokenDraw& draw, const OutcomeStrip& strip) {
  const SamplingParameters& parameters = *draw.parameters;
  Penalise(draw, strip);
  const float best = HighestOf(strip);
  if (best == kMasked) return -1;
  if (IsGreedy(parameters.temperature)) return FirstWith(best, strip);
  if (parameters.top_k > 0) KeepTopK(parameters.top_k, strip);
  ChangeWeights(strip, [&](int64_t i) HWY_ATTR {
    const FloatVector score = hn::LoadU(FloatTag(), strip.scores + i);
    hn::StoreU(Weights(score, best, parameters.temperature), FloatTag(),
               strip.weights + i);
  });
  if (parameters.top_p < 1) KeepTopP(parameters, best, strip);
  if (parameters.min_p > 0) KeepMinP(parameters.min_p, strip);
  return DrawByMass(strip, RandomBitsAt(parameters.seed, draw.index));
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {

HWY_EXPORT(DrawOf);

int32_t Draw(const TokenDraw& draw, const OutcomeStrip& strip) {
  return HWY_DYNAMIC_DISPATCH(DrawOf)(draw, strip);
}

}  // namespace engram::cpu
#endif  // HWY_ONCE
