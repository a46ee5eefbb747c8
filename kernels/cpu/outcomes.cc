// A thread takes a row at a time, and reads the row's logits once, into a strip
// of its own.
#include "kernels/cpu/outcomes.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "kernels/cpu/draws.h"
#include "kernels/cpu/log_probabilities.h"
#include "kernels/cpu/outcome_strip.h"
#include "kernels/sampling_rule.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/outcomes.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/sampling_rule-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

// Fills the strip's scores with clean logits. False if one is not finite.
bool LoadScoresOf(const float* logits, int64_t ids, const OutcomeStrip& strip) {
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

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {
namespace {

HWY_EXPORT(LoadScoresOf);

int64_t WholeBlocks(int64_t ids) {
  return (ids + kOutcomeBlock - 1) / kOutcomeBlock * kOutcomeBlock;
}

// Scores, weights and masses, one behind another.
int64_t StripFloats(int64_t ids) {
  static_assert(sizeof(uint64_t) == 2 * sizeof(float));
  return 2 * WholeBlocks(ids) + 2 * (WholeBlocks(ids) / kOutcomeBlock);
}

bool StopsAt(const TokenDraw& draw, int32_t token) {
  return draw.is_last || std::find(draw.stop_ids.begin(), draw.stop_ids.end(),
                                   token) != draw.stop_ids.end();
}

// The draw comes last: it changes the scores.
void FindOutcome(const float* logits, int64_t ids,
                 const OutcomeRequest& request, const OutcomeStrip& strip,
                 Outcome* outcome) {
  outcome->finite = HWY_DYNAMIC_DISPATCH(LoadScoresOf)(logits, ids, strip);
  outcome->token = -1;
  outcome->stops = false;
  outcome->log_probability = 0;
  const bool tells = request.scored >= 0 || request.alternatives > 0;
  LogNormalizer normalizer;
  if (tells) normalizer = FindLogNormalizer(strip);
  BestIds(strip, request.alternatives, &outcome->top);
  for (LogProbability& told : outcome->top) {
    told.value = normalizer.LogProbabilityOf(told.value);
  }
  if (request.draw.parameters != nullptr) {
    outcome->token = Draw(request.draw, strip);
    outcome->stops = !outcome->finite || outcome->token < 0 ||
                     StopsAt(request.draw, outcome->token);
  }
  const int32_t told = request.scored >= 0 ? request.scored : outcome->token;
  if (!tells || told < 0) return;
  const float score = CleanScore(logits[told]);
  outcome->log_probability =
      score > kMasked ? normalizer.LogProbabilityOf(score) : kMasked;
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
          FindOutcome(logits.floats() + row * logits.stride, ids, requests[row],
                      strip, &outcomes[row]);
        }
      });
}

}  // namespace engram::cpu
#endif  // HWY_ONCE
