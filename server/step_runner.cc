#include "server/step_runner.h"

#include <algorithm>
#include <memory>

#include "kernels/status.h"
#include "server/scheduler.h"

namespace engram {
namespace {

Candidate MakeCandidate(const Sequence& sequence) {
  Candidate candidate;
  if (!sequence.stream->HasRoom()) return candidate;
  candidate.tokens = static_cast<int64_t>(sequence.remaining());
  candidate.logits_for_every_token =
      sequence.request.kind == RequestKind::kScore;
  candidate.logits_before = IsScoredBefore(sequence);
  candidate.decoding = sequence.decoding;
  candidate.priority = sequence.request.priority;
  candidate.waited = sequence.steps_waited;
  candidate.turns = sequence.steps;
  return candidate;
}

}  // namespace

StepRunner::StepRunner(Model* model, absl::Duration target, StateKeeper* states,
                       SequenceProgress* progress, Clock* clock,
                       ModelMetrics* metrics)
    : model_(*model),
      states_(*states),
      progress_(*progress),
      clock_(*clock),
      metrics_(metrics),
      step_time_(target) {}

std::vector<int> StepRunner::Plan(const RunningSequences& running) const {
  std::vector<Candidate> candidates;
  int streams = 0;
  for (const std::unique_ptr<Sequence>& sequence : running.all()) {
    candidates.push_back(MakeCandidate(*sequence));
    if (candidates.back().decoding) ++streams;
  }
  StepLimits limits;
  limits.max_batch_tokens = model_.limits().max_batch_tokens;
  limits.max_logits_rows = model_.limits().max_logits_rows;
  limits.max_prompt_tokens =
      step_time_.PromptTokens(streams, limits.max_batch_tokens);
  std::vector<int> plan = PlanStep(candidates, limits);
  for (size_t i = 0; i < plan.size(); ++i) {
    Sequence& sequence = *running.all()[i];
    const bool left_out = candidates[i].tokens > 0 && plan[i] == 0;
    sequence.steps_waited = left_out ? sequence.steps_waited + 1 : 0;
    if (plan[i] > 0) ++sequence.steps;
  }
  return plan;
}

BatchRow StepRunner::MakeRow(const Sequence& sequence, int tokens) const {
  BatchRow row;
  row.slot = states_.SlotToRead(sequence);
  row.slot_out = sequence.slot;
  row.tokens =
      absl::MakeConstSpan(sequence.to_feed).subspan(sequence.fed, tokens);
  row.alternatives = sequence.request.logprobs;
  const size_t next = sequence.fed + tokens;
  if (sequence.request.kind == RequestKind::kScore) {
    row.wanted = Wanted::kScores;
    row.scored_before = IsScoredBefore(sequence);
    // Each but the first is scored by the token before it.
    const size_t first = sequence.fed + (row.scored_before ? 0 : 1);
    const size_t end = std::min(next + 1, sequence.to_feed.size());
    row.scored =
        absl::MakeConstSpan(sequence.to_feed).subspan(first, end - first);
  } else if (next == sequence.to_feed.size() && !sequence.received_end &&
             sequence.request.stopping.max_tokens > 0) {
    row.wanted = Wanted::kToken;
    row.draw.parameters = &sequence.request.sampling;
    row.draw.index = sequence.start.position + sequence.position + tokens;
    row.draw.seen = &sequence.seen;
    row.draw.generated = &sequence.generated_counts;
  }
  return row;
}

StepRunner::Step StepRunner::Fill(const RunningSequences& running) const {
  const std::vector<int> plan = Plan(running);
  Step step;
  for (size_t i = 0; i < plan.size(); ++i) {
    if (plan[i] == 0) continue;
    Sequence& sequence = *running.all()[i];
    step.batch.rows.push_back(MakeRow(sequence, plan[i]));
    step.sequences.push_back(&sequence);
    if (!sequence.decoding) step.observation.prompt_tokens += plan[i];
    step.observation.tokens += plan[i];
  }
  step.observation.rows = static_cast<int>(step.batch.rows.size());
  return step;
}

absl::StatusOr<bool> StepRunner::Run(const RunningSequences& running) {
  Step step = Fill(running);
  if (step.batch.rows.empty()) return false;

  const absl::Time begin = clock_.Now();
  ENGRAM_RETURN_IF_ERROR(model_.Begin(step.batch));
  ENGRAM_ASSIGN_OR_RETURN(const StepResult result, model_.Finish());
  AdvanceAll(&step, result);
  step.observation.duration = clock_.Now() - begin;
  step_time_.Observe(step.observation.tokens, step.observation.duration);
  if (metrics_ != nullptr) metrics_->ObserveStep(step.observation);
  return true;
}

void StepRunner::AdvanceAll(Step* step, const StepResult& result) {
  const absl::Time now = clock_.Now();
  for (size_t i = 0; i < step->sequences.size(); ++i) {
    states_.HasRun(*step->sequences[i]);
    progress_.Advance(step->sequences[i],
                      static_cast<int>(step->batch.rows[i].tokens.size()),
                      result.rows[i], now, &step->observation);
  }
}

}  // namespace engram
