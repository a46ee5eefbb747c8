#include "clients/cpp/engine_steps.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

constexpr int kWarmUpSteps = 3;
constexpr int kLeastSteps = 5;
constexpr int64_t kMostSteps = 100'000;

StepTimes Summary(std::vector<absl::Duration> times) {
  std::sort(times.begin(), times.end());
  StepTimes summary;
  summary.steps = static_cast<int64_t>(times.size());
  summary.median = times[times.size() / 2];
  summary.fastest = times.front();
  summary.slowest = times.back();
  return summary;
}

absl::Status CheckOutcomes(const StepResult& result) {
  for (const RowOutcome& row : result.rows) {
    if (row.finite && row.outcomes.size() == 1 && row.outcomes[0].token >= 0) {
      continue;
    }
    return absl::InternalError("what the model computes is not finite");
  }
  return absl::OkStatus();
}

// Runs `step` until it has been measured long enough, at most `most` times.
absl::StatusOr<StepTimes> Repeat(absl::Duration at_least, int64_t most,
                                 absl::FunctionRef<absl::Status()> step) {
  std::vector<absl::Duration> times;
  absl::Duration total = absl::ZeroDuration();
  absl::Time before = absl::Now();
  for (int64_t done = 0; done < most; ++done) {
    ENGRAM_RETURN_IF_ERROR(step());
    const absl::Time now = absl::Now();
    if (done >= kWarmUpSteps || done + 1 == most) {
      times.push_back(now - before);
      total += now - before;
    }
    before = now;
    if (total >= at_least && times.size() >= kLeastSteps) break;
  }
  return Summary(std::move(times));
}

// Sequences that hold slots while they are measured.
class Sequences {
 public:
  explicit Sequences(StatePool* states) : states_(*states) {}
  ~Sequences() {
    for (const int slot : slots_) states_.Free(slot);
  }
  Sequences(const Sequences&) = delete;
  Sequences& operator=(const Sequences&) = delete;

  absl::Status Take(int64_t tokens) {
    const int slot = states_.TryTake(tokens);
    if (slot < 0) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "no room for keys and values of ", slots_.size() + 1,
          " sequences of ", tokens, " tokens; --kv-memory gives more"));
    }
    slots_.push_back(slot);
    return states_.Clear(slot);
  }
  const std::vector<int>& slots() const { return slots_; }

 private:
  StatePool& states_;
  std::vector<int> slots_;
};

// How many tokens each of `rows` sequences can have.
int64_t TokensEach(int rows, const ModelInfo& info) {
  if (info.kv_blocks == 0) return kMostSteps + kWarmUpSteps;
  const int64_t room = info.kv_blocks / rows * kKeyValueBlockTokens;
  return info.max_positions == 0 ? room : std::min(room, info.max_positions);
}

// Decodes one step at a time.
class Decoding {
 public:
  Decoding(const std::vector<int>& slots, Model* model)
      : model_(*model), tokens_(slots.size(), 1) {
    for (size_t row = 0; row < slots.size(); ++row) {
      BatchRow wanted;
      wanted.slot = slots[row];
      wanted.tokens = absl::MakeConstSpan(&tokens_[row], 1);
      wanted.wanted = Wanted::kToken;
      wanted.draw.parameters = &greedy_;
      batch_.rows.push_back(wanted);
    }
  }

  // Where the model runs ahead, what it reads first must be begun.
  absl::Status Start() {
    if (!model_.info().runs_ahead) return absl::OkStatus();
    ENGRAM_RETURN_IF_ERROR(model_.Begin(batch_));
    is_ahead_ = true;
    for (BatchRow& row : batch_.rows) {
      row.tokens = {};
      row.follows = true;
    }
    return absl::OkStatus();
  }
  absl::Status Step() {
    for (BatchRow& row : batch_.rows) ++row.draw.index;
    const absl::Status begun = model_.Begin(batch_);
    // Then the device has failed, with all that is begun.
    is_ahead_ = is_ahead_ && begun.ok();
    ENGRAM_RETURN_IF_ERROR(begun);
    ENGRAM_ASSIGN_OR_RETURN(const StepResult result, model_.Finish());
    ENGRAM_RETURN_IF_ERROR(CheckOutcomes(result));
    for (size_t row = 0; row < tokens_.size(); ++row) {
      tokens_[row] = result.rows[row].outcomes[0].token;
    }
    return absl::OkStatus();
  }
  // Also after a step that failed, or the model could not go on with others.
  absl::Status End() {
    return is_ahead_ ? model_.Finish().status() : absl::OkStatus();
  }

 private:
  Model& model_;
  const SamplingParameters greedy_;
  std::vector<int32_t> tokens_;
  Batch batch_;
  bool is_ahead_ = false;
};

}  // namespace

absl::StatusOr<StepTimes> MeasureDecode(int rows, absl::Duration at_least,
                                        Model* model) {
  // One is begun before, one behind the last.
  const int64_t most = TokensEach(rows, model->info()) - 2;
  Sequences sequences(&model->states());
  for (int row = 0; row < rows; ++row) {
    ENGRAM_RETURN_IF_ERROR(sequences.Take(std::max<int64_t>(most, 1) + 2));
  }
  Decoding decoding(sequences.slots(), model);
  ENGRAM_RETURN_IF_ERROR(decoding.Start());
  const absl::StatusOr<StepTimes> times =
      Repeat(at_least, std::min(most, kMostSteps),
             [&decoding] { return decoding.Step(); });
  const absl::Status ended = decoding.End();
  ENGRAM_RETURN_IF_ERROR(times.status());
  ENGRAM_RETURN_IF_ERROR(ended);
  return times;
}

absl::StatusOr<StepTimes> MeasurePrefill(int tokens, absl::Duration at_least,
                                         Model* model) {
  const int64_t positions = model->info().max_positions;
  if (positions != 0 && tokens > positions) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model's sequences end at ", positions, " tokens"));
  }
  std::vector<int32_t> prompt(tokens);
  for (int i = 0; i < tokens; ++i) {
    prompt[i] =
        static_cast<int32_t>(i * int64_t{7919} % model->info().vocabulary_size);
  }
  const SamplingParameters greedy;
  return Repeat(at_least, kMostSteps, [&]() -> absl::Status {
    Sequences sequence(&model->states());
    ENGRAM_RETURN_IF_ERROR(sequence.Take(tokens));
    BatchRow row;
    row.slot = sequence.slots()[0];
    row.tokens = prompt;
    row.wanted = Wanted::kToken;
    row.draw.parameters = &greedy;
    ENGRAM_RETURN_IF_ERROR(model->Begin({{row}}));
    ENGRAM_ASSIGN_OR_RETURN(const StepResult result, model->Finish());
    return CheckOutcomes(result);
  });
}

absl::StatusOr<double> MeasureCopyRate(size_t bytes, Backend* backend) {
  ENGRAM_ASSIGN_OR_RETURN(const auto source, backend->Allocate(bytes));
  ENGRAM_ASSIGN_OR_RETURN(const auto target, backend->Allocate(bytes));
  ENGRAM_RETURN_IF_ERROR(backend->Synchronize());
  constexpr int kCopies = 10;
  ENGRAM_ASSIGN_OR_RETURN(
      const StepTimes times,
      Repeat(absl::ZeroDuration(), kWarmUpSteps + kLeastSteps,
             [&]() -> absl::Status {
               for (int copy = 0; copy < kCopies; ++copy) {
                 ENGRAM_RETURN_IF_ERROR(
                     backend->Copy(target->data(), source->data(), bytes));
               }
               return backend->Synchronize();
             }));
  return 2.0 * kCopies * static_cast<double>(bytes) /
         absl::ToDoubleSeconds(times.median);
}

}  // namespace engram::client
