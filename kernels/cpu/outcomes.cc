// A thread takes a row at a time. It reads the row's logits once and then goes
// over scores and weights in a strip of its own, which its cache holds: once
// for the log-probabilities, if asked for; to draw a token once for the
// weights, and with top_k or top_p three times each for their cut and once to
// leave out what is below it.
//
// A cut is found digit by digit of the scores' keys, from the highest: a
// histogram of counts (top_k) or masses (top_p) tells in which digit it lies.
// All sums of a draw are of integers, and log-probabilities sum in kPartials
// partial sums whatever the width of a vector, so no processor draws or tells
// another token.
#include "kernels/cpu/outcomes.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/sampling_rule.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/outcomes.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

#ifndef ENGRAM_KERNELS_CPU_OUTCOMES_ONCE_
#define ENGRAM_KERNELS_CPU_OUTCOMES_ONCE_
namespace engram::cpu {

constexpr float kMasked = -std::numeric_limits<float>::infinity();
// Ids whose masses are summed up together, so that a draw finds its place
// without looking at all. Scores and weights of a row are filled up to whole
// blocks.
constexpr int64_t kOutcomeBlock = 256;

// What a thread works on for a row.
struct OutcomeStrip {
  int64_t ids = 0;             // whole blocks
  float* scores = nullptr;     // [ids], clean, -infinity behind the row's end
  float* weights = nullptr;    // [ids]
  uint64_t* masses = nullptr;  // [ids / kOutcomeBlock], of blocks of weights
};

}  // namespace engram::cpu
#endif  // ENGRAM_KERNELS_CPU_OUTCOMES_ONCE_

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(FloatTag());
constexpr int64_t kPartials = 16;
static_assert(kPartials % kLanes == 0 && kOutcomeBlock % kPartials == 0);

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

// Fills the strip's scores with clean logits. False if one is not finite.
HWY_INLINE bool LoadScores(const float* logits, int64_t ids,
                           const OutcomeStrip& strip) {
  const FloatTag tag;
  bool finite = true;
  int64_t i = 0;
  for (; i + kLanes <= ids; i += kLanes) {
    const FloatVector logit = hn::LoadU(tag, logits + i);
    finite = finite && hn::AllTrue(tag, hn::IsFinite(logit));
    hn::StoreU(Clean(logit), tag, strip.scores + i);
  }
  for (; i < ids; ++i) {
    finite = finite && std::isfinite(logits[i]);
    strip.scores[i] = CleanScore(logits[i]);
  }
  std::fill(strip.scores + ids, strip.scores + strip.ids, kMasked);
  return finite;
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

// The lowest id with this score. REQUIRES: there is one.
HWY_INLINE int32_t FirstWith(float score, const OutcomeStrip& strip) {
  const FloatTag tag;
  for (int64_t i = 0;; i += kLanes) {
    const intptr_t lane = hn::FindFirstTrue(
        tag, hn::Eq(hn::LoadU(tag, strip.scores + i), Constant(score)));
    if (lane >= 0) return static_cast<int32_t>(i + lane);
  }
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

// log Σ exp(score - highest). Leaves the strip's weights changed.
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

// The `count` ids with the highest scores, best first, ties by the lowest id;
// values are scores. Most vectors have nothing above the last of them.
void BestIds(const OutcomeStrip& strip, int32_t count,
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

// --- Cuts.

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

// Where a descent from the highest score has gathered what was wanted.
struct Cut {
  uint32_t key = 0;   // of the last score that is needed
  uint64_t rest = 0;  // still wanted of that score's ids
};

// REQUIRES: `wanted` is at least 1, and all scores together have as much.
template <Measure kMeasure>
HWY_INLINE Cut FindCut(const OutcomeStrip& strip, uint64_t wanted) {
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
HWY_INLINE Cut FindTopPCut(const OutcomeStrip& strip, float best,
                           float temperature, uint64_t wanted) {
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

// --- The draw.

// Masks scores below the k-th highest.
HWY_INLINE void KeepTopK(int32_t top_k, const OutcomeStrip& strip) {
  const FloatTag tag;
  uint64_t candidates = 0;
  for (int64_t i = 0; i < strip.ids; i += kLanes) {
    candidates += hn::CountTrue(
        tag, hn::Gt(hn::LoadU(tag, strip.scores + i), Constant(kMasked)));
  }
  if (candidates <= static_cast<uint64_t>(top_k)) return;
  const Cut cut = FindCut<Measure::kCount>(strip, top_k);
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
  const Cut cut = FindTopPCut(strip, best, parameters.temperature, wanted_mass);
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

bool StopsAt(const TokenDraw& draw, int32_t token) {
  return draw.is_last || std::find(draw.stop_ids.begin(), draw.stop_ids.end(),
                                   token) != draw.stop_ids.end();
}

int32_t Draw(const TokenDraw& draw, const OutcomeStrip& strip) {
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

void OutcomeOfRow(const float* logits, int64_t ids,
                  const OutcomeRequest& request, const OutcomeStrip& strip,
                  Outcome* outcome) {
  outcome->finite = LoadScores(logits, ids, strip);
  outcome->token = -1;
  outcome->stops = false;
  outcome->log_probability = 0;
  const bool tells = request.scored >= 0 || request.alternatives > 0;
  double highest = 0, log_of_sum = 0;
  if (tells) {
    highest = double{HighestOf(strip)};
    log_of_sum = LogOfSum(strip, static_cast<float>(highest));
  }
  const auto log_probability = [&](float logit) {
    return static_cast<float>((double{logit} - highest) - log_of_sum);
  };
  BestIds(strip, request.alternatives, &outcome->top);
  for (LogProbability& told : outcome->top) {
    told.value = log_probability(told.value);
  }
  if (request.draw.parameters != nullptr) {
    outcome->token = Draw(request.draw, strip);
    outcome->stops = !outcome->finite || outcome->token < 0 ||
                     StopsAt(request.draw, outcome->token);
  }
  const int32_t told = request.scored >= 0 ? request.scored : outcome->token;
  if (!tells || told < 0) return;
  const float logit = CleanScore(logits[told]);
  outcome->log_probability = logit > kMasked ? log_probability(logit) : kMasked;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {
namespace {

HWY_EXPORT(OutcomeOfRow);

int64_t WholeBlocks(int64_t ids) {
  return (ids + kOutcomeBlock - 1) / kOutcomeBlock * kOutcomeBlock;
}

// Scores, weights and masses, one behind another.
int64_t StripFloats(int64_t ids) {
  static_assert(sizeof(uint64_t) == 2 * sizeof(float));
  return 2 * WholeBlocks(ids) + 2 * (WholeBlocks(ids) / kOutcomeBlock);
}

}  // namespace

size_t OutcomeScratchBytes(int64_t rows, int64_t ids) {
  return std::min(rows, kOutcomeStrips) * StripFloats(ids) * sizeof(float);
}

void Outcomes(ThreadPool& threads, ConstMatrix logits, int64_t ids,
              absl::Span<const OutcomeRequest> requests, float* scratch,
              absl::Span<Outcome> outcomes) {
  const auto rows = static_cast<int64_t>(requests.size());
  std::atomic<int64_t> next_row = 0;
  constexpr int64_t kLogitNs = 1;
  // An item is a strip, with which rows are taken one after another.
  threads.ParallelFor(
      std::min(rows, kOutcomeStrips), kLogitNs * rows * ids, [&](int64_t item) {
        OutcomeStrip strip;
        strip.ids = WholeBlocks(ids);
        strip.scores = scratch + item * StripFloats(ids);
        strip.weights = strip.scores + strip.ids;
        strip.masses = reinterpret_cast<uint64_t*>(strip.weights + strip.ids);
        for (int64_t row = next_row++; row < rows; row = next_row++) {
          HWY_DYNAMIC_DISPATCH(OutcomeOfRow)
          (logits.data + row * logits.stride, ids, requests[row], strip,
           &outcomes[row]);
        }
      });
}

}  // namespace engram::cpu
#endif  // HWY_ONCE
