#include "server/engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

// How long an engine sleeps when sequences are paused, and when there are none:
// deadlines and times to live are seen this late at most.
constexpr absl::Duration kPausedWait = absl::Milliseconds(20);
constexpr absl::Duration kIdleWait = absl::Seconds(1);

// How many times as long a prompt is that yields to another.
constexpr int64_t kMuchLonger = 8;

// Ends from outside, after which a fragment may be kept.
bool MayKeepPartial(absl::StatusCode code) {
  return code == absl::StatusCode::kCancelled ||
         code == absl::StatusCode::kDeadlineExceeded ||
         code == absl::StatusCode::kUnavailable;
}

StartedEvent MakeStarted(const Sequence& sequence) {
  StartedEvent started;
  started.session_id = sequence.request.session_id;
  started.request_id = sequence.request.request_id;
  started.version = sequence.start.version;
  started.position = sequence.start.position;
  started.cached_tokens = sequence.start.position;
  started.seed = static_cast<int64_t>(sequence.request.sampling.seed);
  return started;
}

absl::Duration Between(absl::Time from, absl::Time to) {
  if (from == absl::InfinitePast() || to < from) return absl::ZeroDuration();
  return to - from;
}

}  // namespace

Engine::Engine(EngineModel model, const EngineOptions& options,
               Admission* admission, SessionStore* sessions, Clock* clock,
               ModelMetrics* metrics,
               std::function<void(const RequestSummary&)> on_end)
    : model_(std::move(model)),
      options_(options),
      admission_(admission),
      sessions_(sessions),
      clock_(clock),
      metrics_(metrics),
      on_end_(std::move(on_end)),
      states_(model_.model->states()),
      step_time_(options.target_step_time),
      sampler_(model_.model->info().vocabulary_size),
      keeper_(&model_.model->states(), CapacityOf(model_.model->info()),
              model_.number, sessions),
      snapshots_(&states_, sessions, options.max_queue) {}

Engine::~Engine() = default;

void Engine::Drain(absl::Time deadline) {
  {
    absl::MutexLock lock(&mutex_);
    asked_deadline_ = deadline;
  }
  admission_->Wake();
}

void Engine::ReadDrainDeadline() {
  absl::MutexLock lock(&mutex_);
  drain_deadline_ = asked_deadline_;
}

absl::Status Engine::Run() {
  while (failure_.ok()) {
    const bool worked = RunOnce();
    if (drain_deadline_ && idle() && admission_->waiting() == 0) break;
    if (!worked) {
      admission_->WaitForWork(idle() ? kIdleWait : kPausedWait);
    }
  }
  // Whoever waits for a task is answered.
  admission_->CloseTasks();
  RunTasks();
  snapshots_.Finish();
  return failure_;
}

bool Engine::RunOnce() {
  const absl::Time now = clock_->Now();
  ReadDrainDeadline();
  RunTasks();
  keeper_.ReclaimSlots();
  const bool copies_are_left = snapshots_.Advance();
  const bool swept = sessions_->Sweep();
  EndWaiting(now);
  EndRunning(now);
  StartWaiting(now);
  EndOverdue(now);
  const bool worked = Step();
  ForgetOver();
  TellLoad();
  if (metrics_ != nullptr) metrics_->SetLoad(MeasureLoad());
  return worked || copies_are_left || !swept;
}

EngineLoad Engine::MeasureLoad() const {
  EngineLoad load;
  load.running = running() + parked();
  load.waiting = admission_->waiting();
  load.slots_used = states_.slots() - states_.free_slots();
  load.kv_blocks_used = states_.key_values().used;
  load.kv_blocks_reserved = states_.key_values().reserved;
  return load;
}

void Engine::TellLoad() {
  QueueLoad load;
  std::vector<PromptAhead> prompts;
  int streams = 0;
  load.free_slots = states_.slots();
  for (const SequencePointer& sequence : running_) {
    // It would yield its slot.
    if (sequence->paused_since != absl::InfiniteFuture()) continue;
    --load.free_slots;
    if (sequence->decoding) {
      ++streams;
    } else {
      prompts.push_back({sequence->request.priority,
                         static_cast<int64_t>(sequence->remaining())});
    }
  }
  load.time_per_prompt_token = step_time_.TimePerPromptToken(
      streams, model_.model->limits().max_batch_tokens);
  admission_->SetLoad(load, std::move(prompts));
}

void Engine::RunTasks() {
  for (const auto& task : admission_->TakeTasks()) task();
}

// --- Ends from outside.

void Engine::EndWaiting(absl::Time now) {
  for (SequencePointer& sequence :
       DrainIsOver(now) ? admission_->TakeAll() : admission_->TakeEnded(now)) {
    End(sequence.get(), ReasonToEnd(sequence.get(), now));
  }
}

void Engine::EndOverdue(absl::Time now) {
  for (SequencePointer& sequence : admission_->TakeOverdue(now)) {
    End(sequence.get(), admission_->Overdue(*sequence, now));
  }
}

std::vector<Sequence*> Engine::Begun() const {
  std::vector<Sequence*> begun;
  for (const SequencePointer& sequence : running_)
    begun.push_back(sequence.get());
  for (const SequencePointer& sequence : parked_.all()) {
    begun.push_back(sequence.get());
  }
  return begun;
}

void Engine::EndRunning(absl::Time now) {
  for (Sequence* sequence : Begun()) {
    absl::Status reason = ReasonToEnd(sequence, now);
    if (!reason.ok()) End(sequence, std::move(reason));
  }
  ForgetOver();
}

bool Engine::DrainIsOver(absl::Time now) const {
  return drain_deadline_ && now >= *drain_deadline_;
}

absl::Status Engine::ReasonToEnd(Sequence* sequence, absl::Time now) const {
  if (std::optional<absl::Status> cancelled = sequence->stream->cancelled()) {
    return *cancelled;
  }
  if (now >= sequence->request.deadline) {
    return absl::DeadlineExceededError(absl::StrCat(
        "the deadline passed after ", sequence->generated.size(), " tokens"));
  }
  if (DrainIsOver(now)) {
    return absl::UnavailableError(
        "the server is stopping; repeat the request elsewhere or later");
  }
  if (!sequence->has_started()) return absl::OkStatus();
  return CheckReader(sequence, now);
}

absl::Status Engine::CheckReader(Sequence* sequence, absl::Time now) const {
  const TokenStream& stream = *sequence->stream;
  const bool is_parked = sequence->parked_state != nullptr;
  if (is_parked ? stream.HasAmpleRoom() : stream.HasRoom()) {
    sequence->paused_since = absl::InfiniteFuture();
    return absl::OkStatus();
  }
  const int64_t events_read = stream.events_read();
  if (sequence->paused_since == absl::InfiniteFuture() ||
      sequence->events_read != events_read) {
    sequence->paused_since = now;
    sequence->events_read = events_read;
  } else if (now - sequence->paused_since >= options_.slow_reader_timeout) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the client did not read for ",
        absl::FormatDuration(now - sequence->paused_since), ", limit ",
        absl::FormatDuration(options_.slow_reader_timeout),
        " (--slow-reader-timeout); it may resume with received_token_ids"));
  }
  return absl::OkStatus();
}

// --- Starts.

void Engine::StartWaiting(absl::Time now) {
  const size_t moved_before = keeper_.moved_bytes();
  // Streams do not wait for the states of many: the others begin before the
  // next step.
  while (keeper_.moved_bytes() - moved_before < options_.bytes_between_steps ||
         !StreamsRun()) {
    const std::optional<WaitingRequest> waiting = admission_->Next();
    const std::optional<WaitingRequest> parked = parked_.Next();
    if (!waiting && !parked) return;
    bool resume = parked && (!waiting || !GoesBefore(*waiting, *parked));
    // Every running sequence has a slot; committed states yield theirs.
    if (running() == states_.slots() && !ParkPaused() &&
        !ParkFor(resume ? *parked : *waiting)) {
      // What makes no way for the first of both may make it for the other.
      if (!resume || !waiting || !ParkFor(*waiting)) return;
      resume = false;
    }
    if (!(resume ? ResumeNext() : StartNext(now))) return;
  }
}

bool Engine::StartNext(absl::Time now) {
  SequencePointer sequence = admission_->TakeNext();
  if (sequence == nullptr) return false;
  const absl::StatusOr<bool> loaded = keeper_.TryLoad(sequence.get());
  if (!loaded.ok()) {
    admission_->NotStarted();
    End(sequence.get(), loaded.status());
    return true;
  }
  if (*loaded) {
    sequence->start_time = now;
    Prepare(sequence.get(), model_.model->info().vocabulary_size);
    const Sequence* const begun = sequence.get();
    AddRunning(std::move(sequence));
    admission_->Started();
    // Counted before the client can know.
    if (metrics_ != nullptr) metrics_->SetLoad(MeasureLoad());
    begun->stream->Push(MakeStarted(*begun));
    return true;
  }
  // Nobody overtakes it, or it could wait for ever.
  admission_->PutBack(std::move(sequence));
  return ParkPaused();
}

bool Engine::ResumeNext() {
  SequencePointer sequence = parked_.TakeNext();
  if (!keeper_.TryUnpark(sequence.get())) {
    parked_.Add(std::move(sequence));
    return ParkPaused();
  }
  AddRunning(std::move(sequence));
  return true;
}

void Engine::AddRunning(SequencePointer sequence) {
  sequence->steps_before = sequence->steps;
  // Found full anew before it is parked again: nothing is moved twice at a
  // time.
  sequence->paused_since = absl::InfiniteFuture();
  const auto place = std::upper_bound(
      running_.begin(), running_.end(), sequence,
      [](const SequencePointer& left, const SequencePointer& right) {
        return left->arrival < right->arrival;
      });
  running_.insert(place, std::move(sequence));
}

bool Engine::ParkPaused() {
  const auto paused = std::min_element(
      running_.begin(), running_.end(),
      [](const SequencePointer& left, const SequencePointer& right) {
        return left->paused_since < right->paused_since;
      });
  if (paused == running_.end() ||
      (*paused)->paused_since == absl::InfiniteFuture()) {
    return false;
  }
  return Park(&*paused);
}

bool Engine::ParkFor(const WaitingRequest& request) {
  SequencePointer* chosen = nullptr;
  for (SequencePointer& sequence : running_) {
    // A state is not moved for less work than it takes.
    if (sequence->steps - sequence->steps_before < options_.steps_in_a_slot) {
      continue;
    }
    const int priority = sequence->request.priority;
    const auto remaining = static_cast<int64_t>(sequence->remaining());
    const bool much_longer = priority == request.priority &&
                             !sequence->decoding &&
                             remaining >= options_.long_prompt_tokens &&
                             remaining / kMuchLonger >= request.prompt_tokens;
    if (priority >= request.priority && !much_longer) continue;
    if (chosen == nullptr ||
        GoesBefore(AsWaiting(**chosen), AsWaiting(*sequence))) {
      chosen = &sequence;
    }
  }
  return chosen != nullptr && Park(chosen);
}

bool Engine::Park(SequencePointer* sequence) {
  if (!keeper_.TryPark(sequence->get())) return false;
  parked_.Add(std::move(*sequence));
  std::erase(running_, nullptr);
  return true;
}

bool Engine::StreamsRun() const {
  return std::any_of(running_.begin(), running_.end(),
                     [](const SequencePointer& sequence) {
                       return sequence->decoding && sequence->stream->HasRoom();
                     });
}

// --- The step.

bool Engine::NeedsLogitsBefore(const Sequence& sequence) const {
  return sequence.request.kind == RequestKind::kScore && sequence.fed == 0 &&
         sequence.start.position > 0 && !sequence.start.pending.has_value();
}

std::vector<int> Engine::Plan() {
  std::vector<Candidate> candidates(running_.size());
  int streams = 0;
  for (size_t i = 0; i < running_.size(); ++i) {
    const Sequence& sequence = *running_[i];
    Candidate& candidate = candidates[i];
    if (!sequence.stream->HasRoom()) continue;
    candidate.tokens = static_cast<int64_t>(sequence.remaining());
    candidate.logits_for_every_token =
        sequence.request.kind == RequestKind::kScore;
    candidate.logits_before = NeedsLogitsBefore(sequence);
    candidate.decoding = sequence.decoding;
    candidate.priority = sequence.request.priority;
    candidate.waited = sequence.steps_waited;
    candidate.turns = sequence.steps;
    if (sequence.decoding) ++streams;
  }
  StepLimits limits;
  limits.max_batch_tokens = model_.model->limits().max_batch_tokens;
  limits.max_logits_rows = model_.model->limits().max_logits_rows;
  limits.max_prompt_tokens =
      step_time_.PromptTokens(streams, limits.max_batch_tokens);
  std::vector<int> plan = PlanStep(candidates, limits);
  for (size_t i = 0; i < running_.size(); ++i) {
    const bool left_out = candidates[i].tokens > 0 && plan[i] == 0;
    running_[i]->steps_waited = left_out ? running_[i]->steps_waited + 1 : 0;
    if (plan[i] > 0) ++running_[i]->steps;
  }
  return plan;
}

BatchRow Engine::MakeRow(const Sequence& sequence, int tokens) const {
  BatchRow row;
  row.slot = sequence.slot;
  row.tokens =
      absl::MakeConstSpan(sequence.to_feed).subspan(sequence.fed, tokens);
  row.logits_before = NeedsLogitsBefore(sequence);
  const bool last = sequence.fed + tokens == sequence.to_feed.size();
  if (sequence.request.kind == RequestKind::kScore) {
    row.logits = LogitsWanted::kAll;
  } else if (last && !sequence.received_end &&
             sequence.request.stopping.max_tokens > 0) {
    row.logits = LogitsWanted::kLast;
  }
  return row;
}

bool Engine::Step() {
  const std::vector<int> plan = Plan();
  Batch batch;
  std::vector<Sequence*> sequences;
  observation_ = StepObservation();
  for (size_t i = 0; i < plan.size(); ++i) {
    if (plan[i] == 0) continue;
    Sequence& sequence = *running_[i];
    batch.rows.push_back(MakeRow(sequence, plan[i]));
    sequences.push_back(&sequence);
    if (!sequence.decoding) observation_.prompt_tokens += plan[i];
    observation_.tokens += plan[i];
  }
  if (batch.rows.empty()) return false;

  const absl::Time begin = clock_->Now();
  absl::StatusOr<StepResult> result = model_.model->Step(batch);
  if (!result.ok()) {
    Fail(result.status());
    return false;
  }
  AdvanceAll(batch, sequences, *result, clock_->Now());
  observation_.duration = clock_->Now() - begin;
  observation_.rows = static_cast<int>(batch.rows.size());
  step_time_.Observe(observation_.tokens, observation_.duration);
  if (metrics_ != nullptr) metrics_->ObserveStep(observation_);
  return true;
}

void Engine::AdvanceAll(const Batch& batch,
                        const std::vector<Sequence*>& sequences,
                        const StepResult& result, absl::Time now) {
  const int64_t vocabulary = model_.model->info().vocabulary_size;
  size_t logits_row = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const BatchRow& row = batch.rows[i];
    const size_t logits_rows = row.logits_rows();
    const auto logits = result.logits.subspan(logits_row * vocabulary,
                                              logits_rows * vocabulary);
    logits_row += logits_rows;
    if (!result.finite[i]) {
      End(sequences[i],
          absl::InternalError(absl::StrCat(
              "the model's hidden state or logits became NaN or infinite near "
              "position ",
              sequences[i]->start.position + sequences[i]->position)));
      continue;
    }
    Advance(sequences[i], static_cast<int>(row.tokens.size()),
            row.logits_before, logits, now);
  }
}

void Engine::Advance(Sequence* sequence, int tokens, bool logits_before,
                     absl::Span<const float> logits, absl::Time now) {
  if (sequence->request.kind == RequestKind::kScore) {
    Score(sequence, tokens, logits_before, logits);
  }
  sequence->fed += tokens;
  sequence->position += tokens;
  if (sequence->remaining() > 0) return;
  if (!sequence->decoding) {
    sequence->decoding = true;
    sequence->prefill_end = now;
    if (sequence->request.kind == RequestKind::kScore ||
        sequence->request.stopping.max_tokens == 0) {
      return Complete(sequence, FinishReason::kLength);
    }
    if (sequence->received_end) {
      return Complete(sequence, *sequence->received_end);
    }
  }
  SampleNext(sequence, logits, now);
}

void Engine::SampleNext(Sequence* sequence, absl::Span<const float> logits,
                        absl::Time now) {
  const Request& request = sequence->request;
  const int32_t id = sampler_.Sample(
      logits, request.sampling, sequence->start.position + sequence->position,
      &sequence->seen, sequence->generated_counts);
  if (id < 0) {
    return End(sequence, absl::InternalError(absl::StrCat(
                             "every logit is NaN or masked at position ",
                             sequence->start.position + sequence->position)));
  }
  const int32_t index = static_cast<int32_t>(sequence->generated.size());
  sequence->generated.push_back(id);
  ++sequence->generated_counts[id];
  sequence->seen.Insert(id);

  std::optional<float> logprob;
  std::vector<LogProbability> top;
  if (request.logprobs > 0) {
    logprob = LogProbabilityOf(logits, id);
    top = TopLogProbabilities(logits, request.logprobs);
    KeepForRepeat(sequence, *logprob, top);
  }
  TokenOutcome outcome = MakeTokenEvent(
      &sequence->text, model_.tokenizer, index, id,
      IsStopToken(request.stopping, model_.eos_token_ids, id), logprob, top);
  sequence->stream->Push(std::move(outcome.event));
  ObserveToken(sequence, now);

  if (outcome.stops) return Complete(sequence, FinishReason::kStop);
  if (index + 1 >= request.stopping.max_tokens) {
    return Complete(sequence, FinishReason::kLength);
  }
  sequence->to_feed.assign(1, id);
  sequence->fed = 0;
}

void Engine::KeepForRepeat(Sequence* sequence, float logprob,
                           const std::vector<LogProbability>& top) {
  // Only turns on a session are ever repeated from a record.
  if (!sequence->is_turn() || !sequence->record_complete) return;
  sequence->logprobs.push_back(logprob);
  sequence->top.insert(sequence->top.end(), top.begin(), top.end());
  sequence->top.resize(sequence->logprobs.size() * sequence->request.logprobs,
                       LogProbability{.id = -1});
  if (sequence->top.size() * sizeof(LogProbability) >
      sessions_->limits().answer_bytes) {
    sequence->record_complete = false;
    sequence->logprobs = {};
    sequence->top = {};
  }
}

void Engine::ObserveToken(Sequence* sequence, absl::Time now) {
  ++observation_.generated_tokens;
  if (sequence->last_token_time == absl::InfinitePast()) {
    observation_.time_to_first_token_seconds.push_back(
        absl::ToDoubleSeconds(now - sequence->arrival));
  } else {
    observation_.inter_token_latency_seconds.push_back(
        absl::ToDoubleSeconds(now - sequence->last_token_time));
  }
  sequence->last_token_time = now;
}

void Engine::Score(Sequence* sequence, int tokens, bool logits_before,
                   absl::Span<const float> logits) {
  const int64_t vocabulary = model_.model->info().vocabulary_size;
  // Logits after a token are those of the token that follows it.
  if (sequence->fed == 0 && !sequence->start.pending) {
    AddScored(sequence, logits_before ? logits.first(vocabulary)
                                      : absl::Span<const float>());
  }
  if (logits_before) logits.remove_prefix(vocabulary);
  for (int i = 0; i < tokens; ++i) {
    if (sequence->fed + i + 1 >= sequence->to_feed.size()) break;
    AddScored(sequence, logits.subspan(i * vocabulary, vocabulary));
  }
}

void Engine::AddScored(Sequence* sequence, absl::Span<const float> logits) {
  const int32_t index = sequence->scored++;
  const int32_t id = sequence->request.prompt[index];
  std::optional<float> logprob;
  std::vector<LogProbability> top;
  if (!logits.empty()) {
    logprob = LogProbabilityOf(logits, id);
    top = TopLogProbabilities(logits, sequence->request.logprobs);
  }
  TokenOutcome outcome =
      MakeTokenEvent(&sequence->text, model_.tokenizer, index, id,
                     /*is_stop_token=*/false, logprob, top);
  sequence->stream->Push(std::move(outcome.event));
}

// --- Ends.

CompletedEvent Engine::MakeCompleted(const Sequence& sequence,
                                     FinishReason reason,
                                     absl::Time now) const {
  CompletedEvent completed;
  completed.finish_reason = reason;
  completed.version = sequence.start.version + (sequence.is_turn() ? 1 : 0);
  completed.position = sequence.start.position + sequence.position;
  completed.usage.prompt_tokens =
      static_cast<int64_t>(sequence.request.prompt.size());
  completed.usage.cached_tokens = sequence.start.position;
  completed.usage.generated_tokens =
      static_cast<int64_t>(sequence.generated.size());
  const bool started = sequence.start_time != absl::InfinitePast();
  const bool prefilled = sequence.prefill_end != absl::InfinitePast();
  completed.timing.queue =
      Between(sequence.arrival, started ? sequence.start_time : now);
  completed.timing.prefill =
      Between(sequence.start_time, prefilled ? sequence.prefill_end : now);
  completed.timing.decode = Between(sequence.prefill_end, now);
  return completed;
}

bool Engine::CommitTurn(Sequence* sequence, FinishReason reason,
                        const CompletedEvent& completed) {
  CommittedTurns turns;
  turns.version = completed.version;
  turns.position = completed.position;
  if (!sequence->generated.empty()) turns.pending = sequence->generated.back();
  turns.seen = std::make_shared<const TokenSet>(sequence->seen);

  TurnRecord record;
  record.request_id = sequence->request.request_id;
  record.identity = sequence->request.identity;
  record.started = MakeStarted(*sequence);
  record.tokens = sequence->generated;
  record.logprobs = std::move(sequence->logprobs);
  record.top = std::move(sequence->top);
  record.logprobs.shrink_to_fit();
  record.top.shrink_to_fit();
  record.complete = sequence->record_complete;
  record.finish_reason = reason;
  record.version = completed.version;
  record.position = completed.position;
  record.usage = completed.usage;
  record.timing = completed.timing;
  return keeper_.Keep(sequence, std::move(turns), std::move(record));
}

void Engine::Complete(Sequence* sequence, FinishReason reason) {
  CompletedEvent completed = MakeCompleted(*sequence, reason, clock_->Now());
  if (sequence->is_turn() && !CommitTurn(sequence, reason, completed)) {
    return End(sequence, absl::CancelledError("the session was deleted"));
  }
  completed.text = sequence->text.Flush();
  Report(*sequence, completed, /*is_told=*/true, absl::OkStatus());
  // Counted and released before the client can know: what it asks for next sees
  // the turn's end.
  Release(sequence);
  sequence->stream->Push(std::move(completed));
  sequence->stream->End(absl::OkStatus());
}

void Engine::End(Sequence* sequence, absl::Status status) {
  CompletedEvent completed =
      MakeCompleted(*sequence, FinishReason::kCancelled, clock_->Now());
  const bool keep = sequence->request.keep_partial && sequence->is_turn() &&
                    sequence->decoding && !sequence->generated.empty() &&
                    MayKeepPartial(status.code()) &&
                    CommitTurn(sequence, FinishReason::kCancelled, completed);
  if (sequence->is_turn() && !keep) sessions_->Abort(sequence->session);
  Report(*sequence, completed, /*is_told=*/keep, status);
  Release(sequence);
  if (keep) {
    completed.text = sequence->text.Flush();
    sequence->stream->Push(std::move(completed));
  }
  sequence->stream->End(std::move(status));
}

void Engine::Release(Sequence* sequence) {
  keeper_.Release(sequence);
  sequence->over = true;
}

void Engine::Report(const Sequence& sequence, const CompletedEvent& completed,
                    bool is_told, const absl::Status& status) {
  RequestSummary summary = SummaryOf(model_.name, sequence.request);
  summary.status = status;
  if (is_told) {
    summary.finish_reason = FinishReasonName(completed.finish_reason);
  }
  summary.usage = completed.usage;
  summary.timing = completed.timing;
  summary.total = Between(sequence.arrival, clock_->Now());
  on_end_(summary);
}

void Engine::ForgetOver() {
  std::erase_if(running_,
                [](const SequencePointer& sequence) { return sequence->over; });
  parked_.DropOver();
}

void Engine::Fail(const absl::Status& status) {
  failure_ = status;
  admission_->Close(
      absl::StrCat("model \"", model_.name, "\" failed: ", status.message()));
  const absl::Status told = absl::InternalError(
      absl::StrCat("model \"", model_.name, "\" failed: ", status.message()));
  for (Sequence* sequence : Begun()) {
    if (!sequence->over) End(sequence, told);
  }
  for (SequencePointer& sequence : admission_->TakeAll()) {
    End(sequence.get(), told);
  }
}

}  // namespace engram
