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

}  // namespace

Engine::Engine(EngineModel model, const EngineOptions& options,
               EngineInbox* inbox, SessionStore* sessions, Delivery* delivery,
               Clock* clock, ModelMetrics* metrics,
               std::function<void(const RequestSummary&)> on_end)
    : model_(std::move(model)),
      options_(options),
      inbox_(inbox),
      sessions_(sessions),
      clock_(clock),
      metrics_(metrics),
      states_(model_.model->states()),
      step_time_(options.target_step_time),
      keeper_(&model_.model->states(), CapacityOf(model_.model->info()),
              model_.number, sessions),
      snapshots_(&states_, sessions, options.max_queue),
      outbox_(delivery),
      ends_(model_.name, &keeper_, sessions, &outbox_, clock,
            std::move(on_end)),
      running_({.steps = options.steps_in_a_slot,
                .long_prompt_tokens = options.long_prompt_tokens}) {}

Engine::~Engine() = default;

void Engine::Drain(absl::Time deadline) {
  {
    absl::MutexLock lock(&mutex_);
    asked_deadline_ = deadline;
  }
  inbox_->Wake();
}

void Engine::ReadDrainDeadline() {
  absl::MutexLock lock(&mutex_);
  drain_deadline_ = asked_deadline_;
}

absl::Status Engine::Run() {
  while (failure_.ok()) {
    const bool worked = RunOnce();
    if (drain_deadline_ && idle() && inbox_->empty()) break;
    if (!worked) {
      inbox_->WaitForWork(idle() ? kIdleWait : kPausedWait);
    }
  }
  // Whoever waits for a task is answered.
  inbox_->CloseTasks();
  RunTasks();
  snapshots_.Finish();
  return failure_;
}

bool Engine::RunOnce() {
  const absl::Time now = clock_->Now();
  ReadDrainDeadline();
  RunTasks();
  keeper_.ReclaimSlots();
  const absl::StatusOr<bool> copies_are_left = snapshots_.Advance();
  if (!copies_are_left.ok()) Fail(copies_are_left.status());
  const bool swept = sessions_->Sweep();
  EndWaiting(now);
  EndRunning(now);
  StartWaiting(now);
  EndOverdue(now);
  outbox_.Deliver();
  const bool worked = Step();
  outbox_.Deliver();
  ForgetOver();
  TellLoad();
  if (metrics_ != nullptr) metrics_->SetLoad(MeasureLoad());
  return worked || copies_are_left.value_or(false) || !swept;
}

EngineLoad Engine::MeasureLoad() const {
  EngineLoad load;
  load.running = running() + parked();
  load.waiting = inbox_->waiting();
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
  for (const SequencePointer& sequence : running_.all()) {
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
  inbox_->SetLoad(load, std::move(prompts));
}

// --- Copies.

void Engine::Snapshot(SessionHandle session, StateSnapshots::Done done) {
  absl::StatusOr<SessionStore::Location> location = sessions_->Locate(session);
  if (!location.ok()) return done(location.status());
  if (location->slot < 0 || location->block != nullptr) {
    // Shared, not copied.
    return done(StateSnapshots::Snapshot{std::move(location->turns),
                                         std::move(location->block)});
  }
  const absl::Status posted =
      inbox_->Post([this, session, done] { TakeSnapshot(session, done); });
  if (!posted.ok()) done(posted);
}

void Engine::Fork(SessionHandle source, std::string new_session_id,
                  std::function<void(absl::StatusOr<SessionInfo>)> done) {
  Snapshot(source, [this, source, id = std::move(new_session_id),
                    done](absl::StatusOr<StateSnapshots::Snapshot> snapshot) {
    if (!snapshot.ok()) return done(snapshot.status());
    done(sessions_->InstallFork(source, id, snapshot->turns,
                                std::move(snapshot->block)));
  });
}

void Engine::RunTasks() {
  for (const auto& task : inbox_->TakeTasks()) task();
}

// --- Ends from outside.

void Engine::EndWaiting(absl::Time now) {
  for (SequencePointer& sequence :
       DrainIsOver(now) ? inbox_->TakeAll() : inbox_->TakeEnded(now)) {
    ends_.End(sequence.get(), ReasonToEnd(sequence.get(), now));
  }
}

void Engine::EndOverdue(absl::Time now) {
  for (SequencePointer& sequence : inbox_->TakeOverdue(now)) {
    ends_.End(sequence.get(), inbox_->Overdue(*sequence, now));
  }
}

std::vector<Sequence*> Engine::Begun() const {
  std::vector<Sequence*> begun;
  for (const SequencePointer& sequence : running_.all()) {
    begun.push_back(sequence.get());
  }
  for (const SequencePointer& sequence : parked_.all()) {
    begun.push_back(sequence.get());
  }
  return begun;
}

void Engine::EndRunning(absl::Time now) {
  for (Sequence* sequence : Begun()) {
    absl::Status reason = ReasonToEnd(sequence, now);
    if (!reason.ok()) ends_.End(sequence, std::move(reason));
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
         !running_.StreamsRun()) {
    if (!failure_.ok()) return;
    const std::optional<WaitingRequest> waiting = inbox_->Next();
    const std::optional<WaitingRequest> parked = parked_.Next();
    if (!waiting && !parked) return;
    bool resume = parked && (!waiting || !GoesBefore(*waiting, *parked));
    // Every running sequence has a slot; committed states yield theirs.
    if (running() == states_.slots() && !Park(running_.LongestPaused()) &&
        !Park(running_.WhoMakesWayFor(resume ? *parked : *waiting))) {
      // What makes no way for the first of both may make it for the other.
      if (!resume || !waiting || !Park(running_.WhoMakesWayFor(*waiting))) {
        return;
      }
      resume = false;
    }
    if (!(resume ? ResumeNext() : StartNext(now))) return;
  }
}

bool Engine::StartNext(absl::Time now) {
  SequencePointer sequence = inbox_->TakeNext();
  if (sequence == nullptr) return false;
  const absl::StatusOr<bool> loaded = keeper_.TryLoad(sequence.get());
  if (!loaded.ok()) {
    inbox_->NotStarted();
    EndUnmoved(sequence.get(), loaded.status());
    return true;
  }
  if (*loaded) {
    sequence->start_time = now;
    Prepare(sequence.get(), model_.model->info().vocabulary_size);
    const Sequence* const begun = sequence.get();
    running_.Add(std::move(sequence));
    inbox_->Started();
    // Counted before the client can know.
    if (metrics_ != nullptr) metrics_->SetLoad(MeasureLoad());
    outbox_.Tell(begun->stream, MakeStarted(*begun));
    return true;
  }
  // Nobody overtakes it, or it could wait for ever.
  inbox_->PutBack(std::move(sequence));
  return Park(running_.LongestPaused());
}

bool Engine::ResumeNext() {
  SequencePointer sequence = parked_.TakeNext();
  const absl::StatusOr<bool> unparked = keeper_.TryUnpark(sequence.get());
  if (!unparked.ok()) {
    EndUnmoved(sequence.get(), unparked.status());
    return true;
  }
  if (!*unparked) {
    parked_.Add(std::move(sequence));
    return Park(running_.LongestPaused());
  }
  running_.Add(std::move(sequence));
  return true;
}

bool Engine::Park(Sequence* sequence) {
  if (sequence == nullptr || !failure_.ok()) return false;
  const absl::StatusOr<bool> is_parked = keeper_.TryPark(sequence);
  if (!is_parked.ok()) Fail(is_parked.status());
  if (!is_parked.value_or(false)) return false;
  parked_.Add(running_.Take(sequence));
  return true;
}

// --- The step.

bool Engine::IsScoredBefore(const Sequence& sequence) const {
  return sequence.request.kind == RequestKind::kScore && sequence.fed == 0 &&
         sequence.start.position > 0 && !sequence.start.pending.has_value();
}

std::vector<int> Engine::Plan() {
  std::vector<Candidate> candidates(running_.all().size());
  int streams = 0;
  for (size_t i = 0; i < running_.all().size(); ++i) {
    const Sequence& sequence = *running_.all()[i];
    Candidate& candidate = candidates[i];
    if (!sequence.stream->HasRoom()) continue;
    candidate.tokens = static_cast<int64_t>(sequence.remaining());
    candidate.logits_for_every_token =
        sequence.request.kind == RequestKind::kScore;
    candidate.logits_before = IsScoredBefore(sequence);
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
  for (size_t i = 0; i < running_.all().size(); ++i) {
    const bool left_out = candidates[i].tokens > 0 && plan[i] == 0;
    running_.all()[i]->steps_waited =
        left_out ? running_.all()[i]->steps_waited + 1 : 0;
    if (plan[i] > 0) ++running_.all()[i]->steps;
  }
  return plan;
}

BatchRow Engine::MakeRow(const Sequence& sequence, int tokens) const {
  BatchRow row;
  row.slot = sequence.slot;
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

bool Engine::Step() {
  if (!failure_.ok()) return false;
  const std::vector<int> plan = Plan();
  Batch batch;
  std::vector<Sequence*> sequences;
  observation_ = StepObservation();
  for (size_t i = 0; i < plan.size(); ++i) {
    if (plan[i] == 0) continue;
    Sequence& sequence = *running_.all()[i];
    batch.rows.push_back(MakeRow(sequence, plan[i]));
    sequences.push_back(&sequence);
    if (!sequence.decoding) observation_.prompt_tokens += plan[i];
    observation_.tokens += plan[i];
  }
  if (batch.rows.empty()) return false;

  const absl::Time begin = clock_->Now();
  const absl::Status begun = model_.model->Begin(batch);
  const absl::StatusOr<StepResult> result =
      begun.ok() ? model_.model->Finish() : begun;
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
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (!result.rows[i].finite) {
      ends_.End(
          sequences[i],
          absl::InternalError(absl::StrCat(
              "the model's hidden state or logits became NaN or infinite near "
              "position ",
              sequences[i]->start.position + sequences[i]->position)));
      continue;
    }
    Advance(sequences[i], batch.rows[i], result.rows[i].outcomes, now);
  }
}

void Engine::Advance(Sequence* sequence, const BatchRow& row,
                     absl::Span<const Outcome> outcomes, absl::Time now) {
  if (sequence->request.kind == RequestKind::kScore) {
    TellScores(sequence, outcomes);
  }
  const auto tokens = static_cast<int64_t>(row.tokens.size());
  sequence->fed += tokens;
  sequence->position += tokens;
  if (sequence->remaining() > 0) return;
  if (!sequence->decoding) {
    sequence->decoding = true;
    sequence->prefill_end = now;
    if (sequence->request.kind == RequestKind::kScore ||
        sequence->request.stopping.max_tokens == 0) {
      return ends_.Complete(sequence, FinishReason::kLength);
    }
    if (sequence->received_end) {
      return ends_.Complete(sequence, *sequence->received_end);
    }
  }
  TellToken(sequence, outcomes[0], now);
}

void Engine::TellToken(Sequence* sequence, const Outcome& drawn,
                       absl::Time now) {
  const Request& request = sequence->request;
  const int32_t id = drawn.token;
  if (id < 0) {
    return ends_.End(sequence,
                     absl::InternalError(absl::StrCat(
                         "every logit is NaN or masked at position ",
                         sequence->start.position + sequence->position)));
  }
  const int32_t index = static_cast<int32_t>(sequence->generated.size());
  sequence->generated.push_back(id);
  ++sequence->generated_counts[id];
  sequence->seen.Insert(id);

  SampledToken token;
  token.index = index;
  token.id = id;
  token.is_stop_token = IsStopToken(request.stopping, id);
  if (request.logprobs > 0) {
    token.logprob = drawn.log_probability;
    token.top = drawn.top;
    KeepForRepeat(sequence, *token.logprob, token.top);
  }
  if (sequence->text != nullptr) token.Read(sequence->text.get());
  const bool ends_turn = token.ends_turn();
  outbox_.Tell(sequence->stream, std::move(token));
  ObserveToken(sequence, now);

  if (ends_turn) return ends_.Complete(sequence, FinishReason::kStop);
  if (index + 1 >= request.stopping.max_tokens) {
    return ends_.Complete(sequence, FinishReason::kLength);
  }
  sequence->to_feed.assign(1, id);
  sequence->fed = 0;
}

void Engine::KeepForRepeat(Sequence* sequence, float logprob,
                           const std::vector<LogProbability>& top) {
  // Only turns on a session are ever repeated from a record.
  if (!sequence->is_turn() || !sequence->record_whole) return;
  sequence->logprobs.push_back(logprob);
  sequence->top.insert(sequence->top.end(), top.begin(), top.end());
  sequence->top.resize(sequence->logprobs.size() * sequence->request.logprobs,
                       LogProbability{.id = -1});
  if (sequence->top.size() * sizeof(LogProbability) >
      sessions_->limits().answer_bytes) {
    sequence->record_whole = false;
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

void Engine::TellScores(Sequence* sequence,
                        absl::Span<const Outcome> outcomes) {
  if (sequence->fed == 0 && !sequence->start.pending &&
      !IsScoredBefore(*sequence)) {
    TellScore(sequence, nullptr);
  }
  for (const Outcome& score : outcomes) TellScore(sequence, &score);
}

void Engine::TellScore(Sequence* sequence, const Outcome* score) {
  SampledToken token;
  token.index = sequence->scored++;
  token.id = sequence->request.prompt[token.index];
  if (score != nullptr) {
    token.logprob = score->log_probability;
    token.top = score->top;
  }
  outbox_.Tell(sequence->stream, std::move(token));
}

// --- Ends.

void Engine::ForgetOver() {
  running_.DropOver();
  parked_.DropOver();
}

absl::Status Engine::FailureToTell() const {
  return absl::InternalError(
      absl::StrCat("model \"", model_.name, "\" failed: ", failure_.message()));
}

void Engine::EndUnmoved(Sequence* sequence, const absl::Status& status) {
  const bool device_failed = absl::IsInternal(status);
  if (device_failed) Fail(status);
  ends_.End(sequence, device_failed ? FailureToTell() : status);
}

void Engine::Fail(const absl::Status& status) {
  failure_ = status;
  const absl::Status told = FailureToTell();
  inbox_->Close(std::string(told.message()));
  for (Sequence* sequence : Begun()) ends_.End(sequence, told);
  // The iteration goes on, and ends nothing twice.
  ForgetOver();
  for (SequencePointer& sequence : inbox_->TakeLast()) {
    ends_.End(sequence.get(), told);
  }
}

}  // namespace engram
