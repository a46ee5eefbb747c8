#include "server/step_runner.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "kernels/status.h"

namespace engram {
namespace {

// Whether the token that comes after `ahead` more is all that is wanted.
bool IsLast(const Sequence& sequence, int64_t ahead) {
  return static_cast<int64_t>(sequence.generated.size()) + ahead + 1 >=
         sequence.request.stopping.max_tokens;
}

Candidate MakeCandidate(const Sequence& sequence) {
  Candidate candidate;
  if (!sequence.stream->HasRoom()) return candidate;
  candidate.tokens = static_cast<int64_t>(sequence.remaining());
  candidate.position = sequence.start.position + sequence.position;
  candidate.logits_for_every_token =
      sequence.request.kind == RequestKind::kScore;
  candidate.logits_before = IsScoredBefore(sequence);
  candidate.decoding = sequence.decoding;
  candidate.priority = sequence.request.priority;
  candidate.waited = sequence.steps_waited;
  candidate.turns = sequence.steps;
  return candidate;
}

// Whether only the host can tell that the sequence ends with what was drawn.
bool HasStopStrings(const Sequence& sequence) {
  return !sequence.request.stopping.stop.empty();
}

}  // namespace

StepRunner::StepRunner(Model* model, absl::Duration target, StateKeeper* states,
                       SequenceProgress* progress, SequenceEnds* ends,
                       Clock* clock, ModelMetrics* metrics)
    : model_(*model),
      states_(*states),
      progress_(*progress),
      ends_(*ends),
      clock_(*clock),
      metrics_(metrics),
      step_time_(target) {}

StepRunner::Candidates StepRunner::FindCandidates(
    const RunningSequences& running) const {
  Candidates found;
  found.all.reserve(running.all().size());
  absl::flat_hash_map<const Tenant*, int> places;
  int place = -1;
  for (const std::unique_ptr<Sequence>& sequence : running.all()) {
    // Others do not wait for its state.
    Candidate candidate =
        states_.IsReady(*sequence) ? MakeCandidate(*sequence) : Candidate();
    const TenantHandle& tenant = sequence->request.tenant;
    // Mostly it is the one before.
    if (place < 0 || found.parts[place].tenant != tenant.get()) {
      const auto next = static_cast<int>(found.parts.size());
      place = places.try_emplace(tenant.get(), next).first->second;
      if (place == next) {
        found.parts.push_back({.tenant = tenant.get(),
                               .demand = {.tenant = NumberOf(tenant),
                                          .weight = WeightOf(tenant)}});
      }
    }
    candidate.tenant = place;
    Part& part = found.parts[place];
    part.demand.tokens += candidate.tokens;
    if (candidate.tokens > 0 && !candidate.decoding) part.has_prompts = true;
    found.all.push_back(candidate);
  }
  for (Part& part : found.parts) {
    part.demand.tokens =
        std::min<int64_t>(part.demand.tokens, model_.limits().max_batch_tokens);
  }
  return found;
}

void StepRunner::KeepPace(Candidates* candidates) {
  pace_resumes_ = absl::InfiniteFuture();
  for (size_t i = 0; i < candidates->parts.size(); ++i) {
    Part& part = candidates->parts[i];
    if (part.tenant == nullptr || !part.tenant->is_paced() ||
        part.demand.tokens == 0) {
      continue;
    }
    const absl::Time now = clock_.Now();
    const int64_t least = part.has_prompts ? model_.info().chunk_tokens : 1;
    part.taken = part.tenant->TakeTokens(part.demand.tokens, least, now);
    part.is_slowed = part.taken < part.demand.tokens;
    part.demand.tokens = part.taken;
    if (part.taken > 0) continue;
    part.is_held = true;
    for (Candidate& candidate : candidates->all) {
      const int tenant = static_cast<int>(i);
      if (candidate.tenant == tenant) candidate = {.tenant = tenant};
    }
    pace_resumes_ =
        std::min(pace_resumes_, now + part.tenant->TimeToNextToken(now));
  }
}

StepLimits StepRunner::Limits(const Candidates& candidates) const {
  const auto streams = static_cast<int>(std::count_if(
      candidates.all.begin(), candidates.all.end(),
      [](const Candidate& candidate) { return candidate.decoding; }));
  StepLimits limits;
  limits.max_batch_tokens = model_.limits().max_batch_tokens;
  limits.max_logits_rows = model_.limits().max_logits_rows;
  limits.max_prompt_tokens =
      step_time_.PromptTokens(streams, limits.max_batch_tokens);
  limits.chunk_tokens = static_cast<int>(model_.info().chunk_tokens);
  limits.max_shared_tokens = std::min(
      limits.max_batch_tokens,
      streams + std::max(limits.max_prompt_tokens, limits.chunk_tokens));
  return limits;
}

std::vector<StepTenant> StepRunner::ShareStep(const Candidates& candidates,
                                              StepLimits* limits) {
  std::vector<StepTenant> tenants(std::max<size_t>(1, candidates.parts.size()));
  std::vector<TenantDemand> demands;
  double weights = 0;
  for (size_t i = 0; i < candidates.parts.size(); ++i) {
    const Part& part = candidates.parts[i];
    if (part.taken > 0) tenants[i].most = part.taken;
    if (part.demand.tokens == 0) continue;
    demands.push_back(part.demand);
    weights += part.demand.weight;
  }
  if (demands.size() < 2) {
    shares_.Forget();
    return tenants;
  }
  double tokens = limits->max_shared_tokens;
  for (const Part& part : candidates.parts) {
    // Who waits for its own pace is slowed down by no step.
    if (part.demand.tokens == 0 || part.is_slowed) continue;
    tokens = std::min(
        tokens, step_time_.TokensBeside(static_cast<double>(part.demand.tokens),
                                        part.demand.weight / weights));
  }
  tokens = std::max(tokens, 1.0);
  const std::vector<double> shares = shares_.Share(
      demands, tokens, std::max<double>(tokens, limits->chunk_tokens));
  size_t next = 0;
  for (size_t i = 0; i < candidates.parts.size(); ++i) {
    const bool wants = candidates.parts[i].demand.tokens > 0;
    tenants[i].share = wants ? shares[next++] : 0;
  }
  // Shares keep the step as short as it shall be.
  limits->max_shared_tokens = static_cast<int>(tokens);
  limits->max_prompt_tokens = limits->max_batch_tokens;
  return tenants;
}

void StepRunner::SettleShares(const std::vector<int>& plan,
                              Candidates* candidates) {
  for (size_t i = 0; i < plan.size(); ++i) {
    candidates->parts[candidates->all[i].tenant].fed += plan[i];
  }
  std::vector<TenantDemand> demands;
  std::vector<int64_t> fed;
  for (const Part& part : candidates->parts) {
    if (part.taken > part.fed) {
      part.tenant->GiveBackTokens(part.taken - part.fed);
    }
    if (part.demand.tokens == 0) continue;
    demands.push_back(part.demand);
    fed.push_back(part.fed);
  }
  if (demands.size() > 1) shares_.Fed(demands, fed);
}

std::vector<int> StepRunner::Plan(const RunningSequences& running) {
  Candidates candidates = FindCandidates(running);
  KeepPace(&candidates);
  StepLimits limits = Limits(candidates);
  const std::vector<StepTenant> tenants = ShareStep(candidates, &limits);
  std::vector<int> plan = PlanStep(candidates.all, limits, tenants);
  SettleShares(plan, &candidates);
  for (size_t i = 0; i < plan.size(); ++i) {
    Sequence& sequence = *running.all()[i];
    ++sequence.steps_in_slot;
    // What a pace allows nobody says nothing of whose turn it is.
    if (candidates.parts[candidates.all[i].tenant].is_held) continue;
    const bool left_out = candidates.all[i].tokens > 0 && plan[i] == 0;
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
    row.draw.stop_ids = sequence.stop_ids;
    row.draw.is_last = IsLast(sequence, 0);
  }
  return row;
}

StepRunner::Step StepRunner::Fill(const RunningSequences& running) {
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
  return step;
}

absl::Status StepRunner::Begin(Step* step) {
  step->begin = clock_.Now();
  step->observation.rows = static_cast<int>(step->batch.rows.size());
  return model_.Begin(step->batch);
}

absl::StatusOr<bool> StepRunner::Run(const RunningSequences& running,
                                     bool may_run_ahead) {
  const bool is_begun = ahead_.has_value();
  Step step = is_begun ? *std::exchange(ahead_, std::nullopt) : Fill(running);
  if (step.batch.rows.empty()) return false;
  // Asked once: readers make room meanwhile.
  bool goes_on = may_run_ahead && GoesOn(step, running);
  if (!is_begun) {
    // States that make way are moved while nothing is begun.
    if (goes_on) {
      ENGRAM_ASSIGN_OR_RETURN(goes_on, TakeSpares(step));
    }
    ENGRAM_RETURN_IF_ERROR(Begin(&step));
  }
  goes_on = goes_on && TakeTokensAhead(step);
  if (goes_on) ENGRAM_RETURN_IF_ERROR(BeginAhead(step));
  ENGRAM_ASSIGN_OR_RETURN(const StepResult result, model_.Finish());
  Ends ends = AdvanceAll(&step, result);
  if (ends.empty() || !ahead_.has_value()) {
    EndAll(std::move(ends));
    return true;
  }
  // Who ends gives its slots away: so nothing may be ahead of that.
  Step last = *std::exchange(ahead_, std::nullopt);
  ENGRAM_ASSIGN_OR_RETURN(const StepResult last_result, model_.Finish());
  EndAll(std::move(ends));
  EndAll(AdvanceAll(&last, last_result));
  return true;
}

bool StepRunner::GoesOn(const Step& step,
                        const RunningSequences& running) const {
  if (static_cast<int>(step.sequences.size()) != running.size()) return false;
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    const BatchRow& row = step.batch.rows[i];
    if (row.wanted != Wanted::kToken || row.draw.is_last ||
        !step.sequences[i]->stream->HasRoom(/*tokens=*/2)) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<bool> StepRunner::TakeSpares(const Step& step) {
  const size_t moved_before = states_.moved_bytes();
  for (const Sequence* sequence : step.sequences) {
    if (!HasStopStrings(*sequence) || states_.SpareSlot(*sequence) >= 0) {
      continue;
    }
    // Streams do not wait for the states of many.
    if (states_.moved_bytes() > moved_before) return false;
    ENGRAM_ASSIGN_OR_RETURN(const bool taken, states_.TryTakeSpare(*sequence));
    if (!taken) return false;
  }
  return true;
}

bool StepRunner::TakeTokensAhead(const Step& step) {
  absl::flat_hash_map<Tenant*, int64_t> rows;
  for (const Sequence* sequence : step.sequences) {
    Tenant* const tenant = sequence->request.tenant.get();
    if (tenant != nullptr && tenant->is_paced()) ++rows[tenant];
  }
  absl::flat_hash_map<Tenant*, int64_t> taken;
  bool all = true;
  for (const auto& [tenant, tokens] : rows) {
    taken[tenant] = tenant->TakeTokens(tokens, /*least=*/1, clock_.Now());
    all = all && taken[tenant] == tokens;
  }
  if (all) return true;
  for (const auto& [tenant, tokens] : taken) tenant->GiveBackTokens(tokens);
  return false;
}

void StepRunner::GiveBackTokenAhead(const Sequence& sequence) {
  Tenant* const tenant = sequence.request.tenant.get();
  if (tenant != nullptr && tenant->is_paced()) tenant->GiveBackTokens(1);
}

BatchRow StepRunner::MakeRowAhead(const Sequence& sequence,
                                  const BatchRow& row) const {
  BatchRow next = row;
  next.slot = row.out();
  next.slot_out = next.slot;
  if (HasStopStrings(sequence)) {
    const int spare = states_.SpareSlot(sequence);
    ENGRAM_CHECK(spare >= 0);
    next.slot_out = next.slot == spare ? sequence.slot : spare;
  }
  next.tokens = {};
  next.follows = true;
  next.draw.index = row.draw.index + 1;
  next.draw.is_last = IsLast(sequence, 1);
  return next;
}

absl::Status StepRunner::BeginAhead(const Step& step) {
  Step next;
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    next.batch.rows.push_back(
        MakeRowAhead(*step.sequences[i], step.batch.rows[i]));
  }
  next.sequences = step.sequences;
  next.observation.tokens = static_cast<int>(next.sequences.size());
  for (Sequence* sequence : next.sequences) {
    ++sequence->steps;
    ++sequence->steps_in_slot;
  }
  ENGRAM_RETURN_IF_ERROR(Begin(&next));
  ahead_ = std::move(next);
  return absl::OkStatus();
}

absl::Status StepRunner::Settle() {
  if (!ahead_.has_value()) return absl::OkStatus();
  Step step = *std::exchange(ahead_, std::nullopt);
  ENGRAM_ASSIGN_OR_RETURN(const StepResult result, model_.Finish());
  EndAll(AdvanceAll(&step, result));
  return absl::OkStatus();
}

StepRunner::Ends StepRunner::AdvanceAll(Step* step, const StepResult& result) {
  Ends ends;
  const absl::Time now = clock_.Now();
  const int planned_tokens = step->observation.tokens;
  for (size_t i = 0; i < step->sequences.size(); ++i) {
    Sequence* const sequence = step->sequences[i];
    // One that has ended in the step before was fed nothing, or what it is not
    // to be fed.
    if (sequence->over) {
      --step->observation.rows;
      --step->observation.tokens;
      GiveBackTokenAhead(*sequence);
      continue;
    }
    const BatchRow& row = step->batch.rows[i];
    states_.HasRun(sequence, row.out());
    const int tokens = row.follows ? 1 : static_cast<int>(row.tokens.size());
    sequence->place.Fed(tokens);
    std::optional<SequenceEnd> end = progress_.Advance(
        sequence, tokens, result.rows[i], now, &step->observation);
    if (end.has_value()) ends.emplace_back(sequence, *std::move(end));
  }
  // What it ran beside the step before is that one's.
  step->observation.duration =
      clock_.Now() - std::max(step->begin, last_finished_);
  last_finished_ = clock_.Now();
  step_time_.Observe(planned_tokens, step->observation.duration);
  if (metrics_ != nullptr) metrics_->ObserveStep(step->observation);
  return ends;
}

void StepRunner::EndAll(Ends ends) {
  for (auto& [sequence, end] : ends) ends_.End(sequence, std::move(end));
}

}  // namespace engram
