// Steps for tests that look at logits: what a model computes shows in them to
// the last bit, which no token and no rounded score does.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/status.h"
#include "model/model.h"

namespace engram {

enum class LogitsWanted {
  kNone,
  kLast,  // after the row's last token
  kAll,   // after every token of the row
};

// A row that asks for outcomes of these logits; with `before` also of those
// that the slot's last fed token left, which come first. REQUIRES: not kLast
// and `before`.
inline BatchRow RowWith(LogitsWanted wanted, int slot,
                        absl::Span<const int32_t> tokens, bool before = false) {
  static const SamplingParameters* const greedy = new SamplingParameters();
  static const auto* const any_ids = new std::vector<int32_t>(1 << 12);
  BatchRow row;
  row.slot = slot;
  row.tokens = tokens;
  if (wanted == LogitsWanted::kLast) {
    ENGRAM_CHECK(!before);
    row.wanted = Wanted::kToken;
    row.draw.parameters = greedy;
  } else if (wanted == LogitsWanted::kAll || before) {
    const size_t own = wanted == LogitsWanted::kAll ? tokens.size() : 0;
    row.wanted = Wanted::kScores;
    row.scored_before = before;
    row.scored = absl::MakeConstSpan(*any_ids).first(own + (before ? 1 : 0));
  }
  return row;
}

struct StepLogits {
  std::vector<bool> finite;   // of each row
  std::vector<float> logits;  // Model::LogitsForTest
};

// Begins and finishes a step.
inline absl::StatusOr<StepLogits> RunStep(Model* model, const Batch& batch) {
  ENGRAM_RETURN_IF_ERROR(model->Begin(batch));
  ENGRAM_ASSIGN_OR_RETURN(const StepResult result, model->Finish());
  StepLogits step;
  for (const RowOutcome& row : result.rows) step.finite.push_back(row.finite);
  step.logits = model->LogitsForTest();
  return step;
}

}  // namespace engram
