// A block takes a row at a time. Greedy rows are read once; a draw reads its
// row twice, with top_k and top_p twice more for the cut of each, and from the
// second time on from the cache. Scores that a bias or a penalty changes go
// into a strip of the block's own.
#include "kernels/cuda/device.h"
#include "kernels/cuda/integer_sums.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/outcome_rows.h"
#include "kernels/cuda/score_cuts.h"
#include "kernels/cuda/score_row.h"
#include "kernels/cuda/token_draws.h"
#include "kernels/sampling_rule.h"

namespace engram::cuda {
namespace {

constexpr int32_t kThreads = 1024;
constexpr int32_t kIdsOfThread = 4;  // at least, unless a warp has more threads

struct RowSearch {
  OutcomeRow request;
  DrawSearch draw;
  uint32_t alternatives;
};

// Whether the row feeds a token, which is `newest` then. By one thread.
__device__ void FollowRow(const StepTable& step, OutcomeRow* request) {
  const StepRow* const row = step.rows + request->follower;
  if (Load(&row->tokens) == 0) {
    request->draws = 0;
  } else {
    request->newest = Load(step.ids + Load(&row->offset));
  }
}

// By all threads, each of which has read what was there before.
__device__ void FetchRequest(const OutcomeWork& work, int32_t row,
                             OutcomeRow* request) {
  static_assert(sizeof(OutcomeRow) % sizeof(uint32_t) == 0);
  constexpr int32_t kWords = sizeof(OutcomeRow) / sizeof(uint32_t);
  const auto* const source =
      reinterpret_cast<const uint32_t*>(work.requests) + row * kWords;
  auto* const target = reinterpret_cast<std::byte*>(request);
  BlockBarrier();
  for (auto i = static_cast<int32_t>(threadIdx.x); i < kWords;
       i += static_cast<int32_t>(blockDim.x)) {
    const uint32_t word = Load(source + i);
    memcpy(target + i * sizeof(word), &word, sizeof(word));
  }
  BlockBarrier();
  if (request->follower < 0) return;
  if (threadIdx.x == 0) FollowRow(work.step, request);
  BlockBarrier();
}

// Of exp(score - highest) over all ids.
__device__ uint64_t NormalizerOf(const ScoreRow& row, float highest, float unit,
                                 BlockExchange& exchange) {
  uint64_t sum = 0;
  row.VisitAll([&](int32_t, float score) {
    sum += static_cast<uint64_t>(SamplingWeight(score, highest, 1.0f) * unit);
  });
  return BlockSum(sum, exchange);
}

// Stores the best ids in `target`.
__device__ void TellBest(const ScoreRow& row, const ScoreSurvey& survey,
                         int32_t wanted, ScoredId* target, RowSearch& search) {
  const uint64_t cut =
      FindCutOfBest(row, ScoreOfOrder(survey.best), wanted, search.draw.cut);
  if (threadIdx.x == 0) search.alternatives = 0;
  BlockBarrier();
  row.VisitAll([&](int32_t id, float score) {
    if (OrderOf(score, id) < cut) return;
    const uint32_t index = AtomicAdd(&search.alternatives, 1u);
    Store(target + index, ScoredId{id, score});
  });
}

__device__ int32_t TokenOf(const OutcomeWork& work, const ScoreRow& raw,
                           const ScoreSurvey& survey, RowSearch& search) {
  const OutcomeRow& request = search.request;
  if (!ChangesScores(request)) {
    return DrawToken(request, raw, survey, search.draw);
  }
  BlockExchange& exchange = search.draw.cut.exchange;
  float* const strip = work.strips + int64_t{blockIdx.x} * work.ids;
  Penalise(request, work.upload, raw, strip, exchange);
  const ScoreRow changed = {strip, raw.ids};
  return DrawToken(request, changed, SurveyOf(changed, exchange), search.draw);
}

// Whether the sequence ends with `token`.
__device__ bool StopsAt(const OutcomeRow& request, const std::byte* upload,
                        int32_t token, BlockExchange& exchange) {
  if (token < 0 || request.is_last != 0) return true;
  const int32_t* const stop_ids = ListAt<int32_t>(upload, request.stop_ids);
  bool stops = false;
  for (auto i = static_cast<int32_t>(threadIdx.x); i < request.stop_ids.count;
       i += static_cast<int32_t>(blockDim.x)) {
    stops = stops || Load(stop_ids + i) == token;
  }
  return BlockMax(stops ? 1 : 0, exchange) != 0;
}

__device__ OutcomeAnswer AnswerOf(const OutcomeWork& work, const ScoreRow& raw,
                                  RowSearch& search) {
  const OutcomeRow& request = search.request;
  BlockExchange& exchange = search.draw.cut.exchange;
  const ScoreSurvey survey = SurveyOf(raw, exchange);
  OutcomeAnswer answer;
  answer.finite = survey.is_finite ? 1 : 0;
  answer.highest = ScoreOfOrder(survey.best);
  const bool tells = request.scored >= 0 || request.alternatives > 0;
  if (tells) {
    answer.normalizer =
        NormalizerOf(raw, answer.highest, work.normalizer_unit, exchange);
  }
  answer.alternatives = request.alternatives < survey.candidates
                            ? request.alternatives
                            : survey.candidates;
  if (answer.alternatives > 0) {
    TellBest(raw, survey, answer.alternatives,
             work.alternatives + request.first_alternative, search);
  }
  if (request.draws != 0) {
    answer.token = TokenOf(work, raw, survey, search);
    const bool stops = StopsAt(request, work.upload, answer.token, exchange);
    answer.stops = stops || !survey.is_finite ? 1 : 0;
  }
  // Nothing was fed: nobody follows this row either.
  if (request.draws == 0 && request.follower >= 0) answer.stops = 1;
  if (tells) {
    answer.told = request.scored >= 0 ? request.scored : answer.token;
    if (answer.told >= 0) answer.told_score = raw.At(answer.told);
  }
  return answer;
}

__device__ void StoreAnswer(const OutcomeAnswer& answer,
                            OutcomeAnswer* target) {
  Store(&target->normalizer, answer.normalizer);
  Store(&target->highest, answer.highest);
  Store(&target->told_score, answer.told_score);
  Store(&target->told, answer.told);
  Store(&target->token, answer.token);
  Store(&target->finite, answer.finite);
  Store(&target->stops, answer.stops);
  Store(&target->alternatives, answer.alternatives);
}

__global__ void __launch_bounds__(kThreads) AnswerRows(const OutcomeWork work) {
  GridWait();
  GridTrigger();
  RowSearch& search = *DynamicShared<RowSearch>();
  for (auto row = static_cast<int32_t>(blockIdx.x); row < work.rows;
       row += static_cast<int32_t>(gridDim.x)) {
    FetchRequest(work, row, &search.request);
    const ScoreRow raw = {work.logits + row * work.stride, work.ids};
    const OutcomeAnswer answer = AnswerOf(work, raw, search);
    if (threadIdx.x == 0) StoreAnswer(answer, work.answers + row);
  }
}

}  // namespace

cudaError_t FindOutcomes(cudaStream_t stream, const OutcomeWork& work) {
  const int32_t blocks =
      work.rows < work.strip_count ? work.rows : work.strip_count;
  int32_t threads = (work.ids / kIdsOfThread + 31) / 32 * 32;
  threads = threads < 32 ? 32 : threads > kThreads ? kThreads : threads;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(blocks));
  shape.block = dim3(static_cast<unsigned>(threads));
  shape.shared_bytes = sizeof(RowSearch);
  return Launch(shape, stream, AnswerRows, work);
}

}  // namespace engram::cuda
