#include "kernels/cuda/outcomes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_status.h"
#include "kernels/status.h"

namespace engram::cuda {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

// A block has a whole multiprocessor; an H100 has so many.
constexpr int64_t kStrips = 132;

// Rows go to the device together as long as their lists and answers fit into
// memory for so many entries of each; whatever one row asks for fits alone.
constexpr int64_t kUsualEntries = 1024;
constexpr int64_t kUsualAlternatives = 32;
constexpr size_t kMostUsualBytes = size_t{32} << 20;

// Entries of the lists that a row's request comes with.
struct ListSizes {
  int64_t biased = 0;
  int64_t seen = 0;
  int64_t counted = 0;
  int64_t stop_ids = 0;
};

template <class T>
size_t ListBytes(int64_t entries) {
  constexpr size_t kAlignment = 8;
  return (entries * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
}

size_t BytesOf(const ListSizes& sizes) {
  return ListBytes<BiasedId>(sizes.biased) + ListBytes<uint32_t>(sizes.seen) +
         ListBytes<CountedId>(sizes.counted) +
         ListBytes<int32_t>(sizes.stop_ids);
}

int64_t WordsOfSet(int64_t ids) { return (ids + 63) / 64 * 2; }

// What no request has more of, but for stop ids that come twice.
ListSizes MostOf(int64_t ids) {
  return {.biased = ids,
          .seen = WordsOfSet(ids),
          .counted = ids,
          .stop_ids = ids + kUsualEntries};
}

bool PenalisesCounts(const TokenDraw& draw) {
  return draw.generated != nullptr && (draw.parameters->presence_penalty != 0 ||
                                       draw.parameters->frequency_penalty != 0);
}

ListSizes SizesOf(const TokenDraw& draw, int64_t ids) {
  ListSizes sizes;
  if (draw.parameters == nullptr) return sizes;
  sizes.biased = static_cast<int64_t>(draw.parameters->logit_bias.size());
  if (draw.parameters->repetition_penalty != 1 && draw.seen != nullptr) {
    sizes.seen = WordsOfSet(ids);
  }
  if (PenalisesCounts(draw)) {
    sizes.counted = static_cast<int64_t>(draw.generated->size());
  }
  sizes.stop_ids = static_cast<int64_t>(draw.stop_ids.size());
  return sizes;
}

int64_t MostAlternatives(int64_t rows, int64_t ids) {
  return std::max(ids, rows * kUsualAlternatives);
}

size_t AnswerBytes(int64_t rows, int64_t ids) {
  return rows * sizeof(OutcomeAnswer) +
         MostAlternatives(rows, ids) * sizeof(ScoredId);
}

size_t StripBytes(int64_t rows, int64_t ids) {
  return std::min(rows, kStrips) * ids * sizeof(float);
}

int64_t AlternativesOf(const OutcomeRequest& request, int64_t ids) {
  return std::clamp<int64_t>(request.alternatives, 0, ids);
}

// Puts lists one behind another.
class ListWriter {
 public:
  ListWriter(std::byte* upload, size_t end) : upload_(upload), end_(end) {}

  // `entries` that are to be filled.
  template <class T>
  std::pair<UploadedList, T*> Add(int64_t entries) {
    const UploadedList list = {.at = static_cast<uint32_t>(end_),
                               .count = static_cast<int32_t>(entries)};
    end_ += ListBytes<T>(entries);
    return {list, reinterpret_cast<T*>(upload_ + list.at)};
  }
  size_t end() const { return end_; }

 private:
  std::byte* const upload_;
  size_t end_;
};

UploadedList AddSeen(const TokenSet& seen, int64_t words, ListWriter* writer) {
  const auto [list, target] = writer->Add<uint32_t>(words);
  const size_t bytes = words * sizeof(uint32_t);
  const size_t held = std::min(bytes, seen.bytes());
  std::memset(target, 0, bytes);
  if (held > 0) std::memcpy(target, seen.words().data(), held);
  return list;
}

void LayOutDraw(const TokenDraw& draw, int64_t ids, ListWriter* writer,
                OutcomeRow* row) {
  const SamplingParameters& parameters = *draw.parameters;
  const ListSizes sizes = SizesOf(draw, ids);
  row->draws = 1;
  row->is_last = draw.is_last ? 1 : 0;
  row->newest = draw.newest;
  row->follower = draw.follower;
  row->top_k = parameters.top_k;
  row->temperature = parameters.temperature;
  row->top_p = parameters.top_p;
  row->min_p = parameters.min_p;
  row->repetition_penalty = parameters.repetition_penalty;
  row->presence_penalty = parameters.presence_penalty;
  row->frequency_penalty = parameters.frequency_penalty;
  row->penalises_counts = PenalisesCounts(draw) ? 1 : 0;
  row->seed = parameters.seed;
  row->index = draw.index;
  auto [biased, biases] = writer->Add<BiasedId>(sizes.biased);
  for (const auto& [id, bias] : parameters.logit_bias) *biases++ = {id, bias};
  row->biased = biased;
  if (sizes.seen > 0) row->seen = AddSeen(*draw.seen, sizes.seen, writer);
  auto [counted, counts] = writer->Add<CountedId>(sizes.counted);
  if (sizes.counted > 0) {
    for (const auto& [id, count] : *draw.generated) *counts++ = {id, count};
  }
  row->counted = counted;
  const auto [stop_ids, stops] = writer->Add<int32_t>(sizes.stop_ids);
  std::copy(draw.stop_ids.begin(), draw.stop_ids.end(), stops);
  row->stop_ids = stop_ids;
}

// What makes a log-probability of a clean logit.
class LogNormalizer {
 public:
  LogNormalizer(const OutcomeAnswer& answer, int64_t ids)
      : highest_(answer.highest),
        log_of_sum_(
            std::log(std::ldexp(static_cast<double>(answer.normalizer),
                                -NormalizerBits(static_cast<int32_t>(ids))))) {}

  float LogProbabilityOf(float score) const {
    if (!(score > kMasked)) return kMasked;
    return static_cast<float>((double{score} - highest_) - log_of_sum_);
  }

 private:
  const double highest_;
  const double log_of_sum_;
};

void SetBest(absl::Span<const ScoredId> alternatives,
             const LogNormalizer& normalizer, Outcome* outcome) {
  outcome->top.clear();
  for (const ScoredId& one : alternatives) {
    outcome->top.push_back({one.id, one.score});
  }
  std::sort(outcome->top.begin(), outcome->top.end(),
            [](const LogProbability& a, const LogProbability& b) {
              return a.value > b.value || (a.value == b.value && a.id < b.id);
            });
  for (LogProbability& told : outcome->top) {
    told.value = normalizer.LogProbabilityOf(told.value);
  }
}

// The alternatives of a part lie where the next one will have its answers,
// which comes when they have been copied.
OutcomeWork PartOf(OutcomeWork work, int64_t first, int64_t rows) {
  work.logits += first * work.stride;
  work.rows = static_cast<int32_t>(rows);
  work.answers += first;
  work.alternatives = reinterpret_cast<ScoredId*>(work.answers + rows);
  return work;
}

// Makes `memory` one of at least so many bytes; it stays if there is no room.
template <class Allocate>
absl::Status Grow(const Allocate& allocate, size_t bytes,
                  std::unique_ptr<Buffer>* memory) {
  if (*memory != nullptr && (*memory)->bytes() >= bytes) {
    return absl::OkStatus();
  }
  ENGRAM_ASSIGN_OR_RETURN(*memory, allocate(bytes));
  return absl::OkStatus();
}

}  // namespace

size_t OutcomeKernels::RequestBytes(int64_t rows, int64_t ids) {
  if (rows == 0) return 0;
  const ListSizes most = MostOf(ids);
  const ListSizes usual = {
      .biased = std::min(kUsualEntries, most.biased),
      .seen = most.seen,
      .counted = std::min(kUsualEntries, most.counted),
  };
  return rows * sizeof(OutcomeRow) +
         std::max(BytesOf(most),
                  std::min(rows * BytesOf(usual), kMostUsualBytes));
}

MemoryNeed OutcomeKernels::NeedOf(int64_t rows, int64_t ids) {
  if (rows == 0) return {};
  const size_t answers = AnswerBytes(rows, ids);
  return {.device = DevicePieceBytes(StripBytes(rows, ids)) +
                    DevicePieceBytes(answers),
          .pinned = kStagings * PinnedPieceBytes(answers)};
}

absl::Status OutcomeKernels::Reserve(int64_t rows, int64_t ids) {
  rows = std::max(rows, rows_);
  ids = std::max(ids, ids_);
  if (rows == 0) {
    ids_ = ids;
    return absl::OkStatus();
  }
  ENGRAM_RETURN_IF_ERROR(
      Grow(AllocateDeviceMemory, StripBytes(rows, ids), &strips_));
  const size_t answer_bytes = AnswerBytes(rows, ids);
  ENGRAM_RETURN_IF_ERROR(Grow(AllocateDeviceMemory, answer_bytes, &answers_));
  for (Staging& staging : stagings_) {
    ENGRAM_RETURN_IF_ERROR(
        Grow(AllocatePinnedMemory, answer_bytes, &staging.answers));
    staging.alternatives.reserve(rows);
  }
  rows_ = rows;
  ids_ = ids;
  return absl::OkStatus();
}

const OutcomeAnswer* OutcomeKernels::answers() const {
  ENGRAM_CHECK(answers_ != nullptr);
  return static_cast<const OutcomeAnswer*>(
      static_cast<const Buffer&>(*answers_).data());
}

int64_t OutcomeKernels::FittingRequests(
    absl::Span<const OutcomeRequest> requests, int64_t padding,
    int64_t ids) const {
  size_t bytes = padding * sizeof(OutcomeRow);
  int64_t alternatives = 0;
  int64_t fitting = 0;
  for (const OutcomeRequest& request : requests) {
    bytes += sizeof(OutcomeRow) + BytesOf(SizesOf(request.draw, ids));
    alternatives += AlternativesOf(request, ids);
    if (bytes > upload_.request_bytes() ||
        alternatives > MostAlternatives(rows_, ids_)) {
      break;
    }
    ++fitting;
  }
  return fitting;
}

bool OutcomeKernels::FitTogether(absl::Span<const OutcomeRequest> requests,
                                 int64_t padding, int64_t ids) const {
  const auto rows = static_cast<int64_t>(requests.size());
  return rows + padding <= rows_ && ids <= ids_ &&
         FittingRequests(requests, padding, ids) == rows;
}

size_t OutcomeKernels::LayOut(DeviceQueue* queue,
                              absl::Span<const OutcomeRequest> requests,
                              int64_t padding, int64_t ids, size_t rows_at,
                              size_t lists_at) {
  last_ = (last_ + 1) % kStagings;
  Staging& staging = stagings_[last_];
  if (staging.awaited && !queue->Synchronize().ok()) return 0;
  const absl::StatusOr<std::byte*> upload = upload_.BeginRequests();
  if (!upload.ok()) {
    queue->Fail(upload.status());
    return 0;
  }
  auto* const rows = reinterpret_cast<OutcomeRow*>(*upload + rows_at);
  ListWriter writer(*upload, lists_at);
  staging.taken = {.rows = static_cast<int64_t>(requests.size()) + padding};
  staging.alternatives.clear();
  for (size_t i = 0; i < requests.size(); ++i) {
    const OutcomeRequest& request = requests[i];
    OutcomeRow row;
    row.scored = std::max(request.scored, -1);
    row.alternatives = static_cast<int32_t>(AlternativesOf(request, ids));
    row.first_alternative = static_cast<int32_t>(staging.taken.alternatives);
    staging.taken.alternatives += row.alternatives;
    staging.alternatives.push_back(row.alternatives);
    if (request.draw.parameters != nullptr) {
      LayOutDraw(request.draw, ids, &writer, &row);
    }
    rows[i] = row;
  }
  std::fill_n(rows + requests.size(), padding, OutcomeRow());
  return writer.end();
}

OutcomeWork OutcomeKernels::WorkOf(const StepTable& step, size_t rows_at,
                                   ConstMatrix logits, int64_t ids) const {
  OutcomeWork work;
  work.step = step;
  work.requests =
      reinterpret_cast<const OutcomeRow*>(upload_.memory() + rows_at);
  work.logits = logits.floats();
  work.stride = logits.stride;
  work.ids = static_cast<int32_t>(ids);
  work.normalizer_unit = std::ldexp(1.0f, NormalizerBits(work.ids));
  work.upload = upload_.memory();
  work.strips = strips_->floats();
  work.strip_count = static_cast<int32_t>(std::min(rows_, kStrips));
  work.answers = static_cast<OutcomeAnswer*>(answers_->data());
  return work;
}

cudaError_t OutcomeKernels::Find(cudaStream_t stream, const StepTable& step,
                                 size_t rows_at, ConstMatrix logits,
                                 int64_t ids) {
  return FindOutcomes(
      stream, PartOf(WorkOf(step, rows_at, logits, ids), 0, step.row_count));
}

void OutcomeKernels::BringBack(DeviceQueue* queue, int64_t ids,
                               absl::Span<Outcome> outcomes, int64_t first) {
  Staging& staging = stagings_[last_];
  const Taken& taken = staging.taken;
  queue->Note(cudaMemcpyAsync(staging.answers->data(), answers() + first,
                              taken.rows * sizeof(OutcomeAnswer) +
                                  taken.alternatives * sizeof(ScoredId),
                              cudaMemcpyDeviceToHost, queue->operations()),
              "copying outcomes");
  staging.awaited = true;
  queue->DeliverLater([&staging, ids, outcomes] {
    Deliver(staging, ids, outcomes);
    staging.awaited = false;
  });
}

void OutcomeKernels::Deliver(const Staging& staging, int64_t ids,
                             absl::Span<Outcome> outcomes) {
  const auto* const answers =
      static_cast<const OutcomeAnswer*>(staging.answers->data());
  const auto* alternatives =
      reinterpret_cast<const ScoredId*>(answers + staging.taken.rows);
  for (size_t i = 0; i < outcomes.size(); ++i) {
    const OutcomeAnswer& answer = answers[i];
    const LogNormalizer normalizer(answer, ids);
    Outcome& outcome = outcomes[i];
    outcome.finite = answer.finite != 0;
    outcome.token = answer.token;
    outcome.stops = answer.stops != 0;
    outcome.log_probability =
        answer.told >= 0 ? normalizer.LogProbabilityOf(answer.told_score) : 0;
    SetBest({alternatives, static_cast<size_t>(answer.alternatives)},
            normalizer, &outcome);
    alternatives += staging.alternatives[i];
  }
}

int64_t OutcomeKernels::BeginSome(DeviceQueue* queue, OutcomeWork work,
                                  size_t row_bytes, int64_t first,
                                  absl::Span<const OutcomeRequest> requests,
                                  absl::Span<Outcome> outcomes) {
  const int64_t rows = FittingRequests(requests, /*padding=*/0, work.ids);
  if (rows == 0) {
    queue->Fail(absl::ResourceExhaustedError(absl::StrCat(
        "CUDA: a draw with ", requests[0].draw.stop_ids.size(), " stop ids of ",
        work.ids, " ids has no room in ", upload_.request_bytes(), " bytes")));
    return 0;
  }
  const size_t end =
      LayOut(queue, requests.first(rows), /*padding=*/0, work.ids, row_bytes,
             row_bytes + rows * sizeof(OutcomeRow));
  if (end == 0) return 0;
  const cudaStream_t stream = queue->operations();
  const absl::Status copied = upload_.Copy(row_bytes, end, stream);
  if (!copied.ok()) queue->Fail(copied);
  queue->Note(FindOutcomes(stream, PartOf(work, first, rows)),
              "finding outcomes");
  BringBack(queue, work.ids, outcomes.first(rows), first);
  return rows;
}

void OutcomeKernels::Begin(DeviceQueue* queue, const StepTable& step,
                           size_t row_bytes, ConstMatrix logits, int64_t ids,
                           absl::Span<const OutcomeRequest> requests,
                           absl::Span<Outcome> outcomes) {
  const auto rows = static_cast<int64_t>(requests.size());
  ENGRAM_CHECK(rows <= rows_ && ids <= ids_);
  if (rows == 0) return;
  const OutcomeWork work = WorkOf(step, row_bytes, logits, ids);
  int64_t begun = 0;
  for (int64_t some = rows; begun < rows && some > 0; begun += some) {
    some = BeginSome(queue, work, row_bytes, begun, requests.subspan(begun),
                     outcomes.subspan(begun));
  }
}

}  // namespace engram::cuda
