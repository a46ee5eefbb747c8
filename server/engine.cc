#include "server/engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "server/slot_number.h"

namespace engram {
namespace {

// How long an engine sleeps when sequences are paused, and when there are none:
// deadlines and times to live are seen this late at most.
constexpr absl::Duration kPausedWait = absl::Milliseconds(20);
constexpr absl::Duration kIdleWait = absl::Seconds(1);
// The least that it sleeps until a tenant's pace allows a token: what it allows
// meanwhile is fed in steps without a pause.
constexpr absl::Duration kPacedWaitLeast = absl::Milliseconds(1);

// After so many steps that ran ahead in a row comes what is done between steps
// and is in no haste, such as to end sessions whose time is over.
constexpr int kStepsAheadMost = 64;

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
      keeper_(&model_.model->states(), CapacityOf(model_.model->info()),
              model_.number, sessions, model_.device),
      snapshots_(&keeper_.copies(), sessions, options.max_queue, model_.device),
      inspections_(model_.model, options.max_inspections,
                   [this](SessionHandle session, StateSnapshots::Done found) {
                     FetchToInspect(std::move(session), std::move(found));
                   }),
      outbox_(delivery),
      ends_(model_.name, &keeper_, sessions, &outbox_, clock,
            std::move(on_end)),
      progress_(&outbox_, sessions->limits().answer_bytes),
      steps_(model_.model, options.target_step_time, &keeper_, &progress_,
             &ends_, clock, metrics),
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
    if (drain_deadline_ && idle() && NobodyWaits()) break;
    if (!worked) WaitForWork();
  }
  // Whoever waits for a task is answered.
  inbox_->CloseTasks();
  RunTasks();
  snapshots_.Finish();
  inspections_.End(
      failure_.ok()
          ? absl::UnavailableError("the server is stopping; try another one")
          : FailureToTell());
  return failure_;
}

void Engine::WaitForWork() {
  if (keeper_.copies().empty()) {
    return inbox_->WaitForWork(TimeToWait());
  }
  // What there is to do comes with it.
  const absl::Status copied = keeper_.copies().Wait();
  if (!copied.ok()) Fail(copied);
}

absl::Duration Engine::TimeToWait() const {
  if (idle() && !drain_deadline_) return kIdleWait;
  const absl::Duration paced = steps_.pace_resumes() - clock_->Now();
  return std::clamp(paced, kPacedWaitLeast, kPausedWait);
}

bool Engine::NobodyWaits() const {
  return std::all_of(
      engines_.begin(), engines_.end(),
      [](const Engine* engine) { return engine->inbox_->empty(); });
}

bool Engine::RunOnce() {
  const absl::Time now = clock_->Now();
  ReadDrainDeadline();
  bool may_run_ahead = steps_.is_ahead() && MayRunAhead(now);
  bool more = false;
  if (may_run_ahead) {
    ++steps_ahead_;
  } else {
    steps_ahead_ = 0;
    more = WorkBetweenSteps(now);
    may_run_ahead = MayRunAhead(now);
  }
  outbox_.Deliver();
  const bool worked = RunStep(may_run_ahead);
  outbox_.Deliver();
  ForgetOver();
  TellLoad();
  if (metrics_ != nullptr) metrics_->SetLoad(MeasureLoad());
  return worked || more;
}

bool Engine::MayRunAhead(absl::Time now) const {
  if (!model_.model->info().runs_ahead || steps_ahead_ >= kStepsAheadMost) {
    return false;
  }
  if (drain_deadline_ || !inbox_->empty() || inbox_->tasks() > 0 ||
      parked() > 0 || !snapshots_.empty() || !inspections_.empty()) {
    return false;
  }
  return std::all_of(running_.all().begin(), running_.all().end(),
                     [this, now](const SequencePointer& sequence) {
                       return ReasonToEnd(sequence.get(), now).ok();
                     });
}

bool Engine::WorkBetweenSteps(absl::Time now) {
  const absl::Status settled = steps_.Settle();
  if (!settled.ok()) Fail(settled);
  ForgetOver();
  if (failure_.ok()) {
    const absl::Status copied = keeper_.Settle();
    if (!copied.ok()) Fail(copied);
  }
  RunTasks();
  keeper_.ReclaimSlots();
  const absl::StatusOr<bool> copies_are_left = snapshots_.Advance();
  if (!copies_are_left.ok()) Fail(copies_are_left.status());
  const bool inspections_are_left = InspectBetweenSteps();
  const bool swept = sessions_->Sweep();
  EndWaiting(now);
  EndRunning(now);
  StartWaiting(now);
  EndOverdue(now);
  return copies_are_left.value_or(false) || inspections_are_left || !swept;
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
  load.slots = states_.slots();
  load.free_slots = states_.slots();
  load.empty_slots = states_.free_slots() + keeper_.spare_slots();
  for (const SequencePointer& sequence : running_.all()) {
    // It would yield its slot.
    if (sequence->paused_since != absl::InfiniteFuture()) continue;
    --load.free_slots;
    if (sequence->decoding) {
      ++streams;
    } else {
      prompts.push_back(PromptAheadOf(sequence->request));
      prompts.back().tokens = static_cast<int64_t>(sequence->remaining());
    }
  }
  load.time_per_prompt_token = steps_.TimePerPromptToken(streams);
  load.tenants = running_.shares().Named();
  inbox_->SetLoad(std::move(load), std::move(prompts));
}

// --- Copies.

void Engine::Snapshot(SessionHandle session, StateSnapshots::Done done) {
  CopyState(std::move(session), /*for_request=*/false, std::move(done));
}

void Engine::CopyState(SessionHandle session, bool for_request,
                       StateSnapshots::Done done) {
  absl::StatusOr<SessionStore::Location> location = sessions_->Locate(session);
  if (!location.ok()) return done(location.status());
  if (location->slot < 0 || location->block != nullptr) {
    // Shared, not copied.
    return done(StateSnapshots::Snapshot{std::move(location->turns),
                                         std::move(location->block)});
  }
  Engine* const holder = engines_[DeviceOfSlot(location->slot)];
  const auto tell = [=,
                     this](absl::StatusOr<StateSnapshots::Snapshot> snapshot) {
    // It has gone on on another device.
    if (absl::IsAborted(snapshot.status())) {
      return CopyState(session, for_request, done);
    }
    done(std::move(snapshot));
  };
  const absl::Status posted =
      for_request
          ? holder->inbox_->PostForRequest(
                [=] { holder->snapshots_.AddForRequest(session, tell); })
          : holder->inbox_->Post([=] { holder->TakeSnapshot(session, tell); });
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

int Engine::held_slots() const {
  return keeper_.copies().slots_to_come() +
         static_cast<int>(std::count_if(
             parked_.all().begin(), parked_.all().end(),
             [](const auto& sequence) { return sequence->slot >= 0; }));
}

void Engine::Inspect(SessionQuestion question) {
  const absl::Status posted =
      inbox_->Post([this, question] { inspections_.Add(question); });
  if (!posted.ok()) question.done(posted);
}

void Engine::FetchToInspect(SessionHandle session, StateSnapshots::Done done) {
  CopyState(std::move(session), /*for_request=*/false,
            [inbox = inbox_,
             done](absl::StatusOr<StateSnapshots::Snapshot> snapshot) {
              // Whoever waits when the engine has ended is told so then.
              inbox->PostForRequest([done, snapshot] { done(snapshot); })
                  .IgnoreError();
            });
}

bool Engine::InspectBetweenSteps() {
  if (!failure_.ok()) return false;
  const absl::StatusOr<bool> worked = inspections_.Advance();
  if (!worked.ok()) Fail(worked.status());
  return worked.value_or(false);
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
    const std::optional<WaitingRequest> waiting =
        inbox_->Next(running_.shares());
    const std::optional<WaitingRequest> parked =
        parked_.Next(running_.shares());
    if (!waiting && !parked) return;
    bool resume = parked && (!waiting ||
                             !running_.shares().GoesBefore(*waiting, *parked));
    // Every running sequence has a slot; committed states yield theirs.
    if (running() == states_.slots() && !Park(running_.LongestPaused()) &&
        !Park(running_.WhoMakesWayFor(resume ? *parked : *waiting))) {
      // What makes no way for the first of both may make it for the other.
      if (!resume || !waiting || !Park(running_.WhoMakesWayFor(*waiting))) {
        return;
      }
      resume = false;
    }
    if (!(resume ? ResumeNext() : StartNext(now))) {
      return EvictAhead();
    }
  }
}

void Engine::EvictAhead() {
  while (failure_.ok() && keeper_.RoomIsComing() &&
         states_.free_slots() + keeper_.slots_to_come() < inbox_->waiting() &&
         keeper_.leaving_bytes() < options_.bytes_between_steps) {
    const absl::StatusOr<bool> evicted = keeper_.EvictAhead();
    if (absl::IsInternal(evicted.status())) Fail(evicted.status());
    if (!evicted.value_or(false)) return;
  }
}

bool Engine::StartNext(absl::Time now) {
  SequencePointer sequence = inbox_->TakeNext(running_.shares());
  if (sequence == nullptr) return false;
  if (sequence->fetch != nullptr && !sequence->fetch->answer().ok()) {
    // Whatever became of the other device, this one has not failed.
    inbox_->NotStarted();
    ends_.End(sequence.get(), sequence->fetch->answer().status());
    return true;
  }
  const absl::StatusOr<bool> loaded = keeper_.TryLoad(sequence.get());
  if (absl::IsAborted(loaded.status())) {
    Fetch(std::move(sequence));
    return true;
  }
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
  return !keeper_.RoomIsComing() && Park(running_.LongestPaused());
}

void Engine::Fetch(SequencePointer sequence) {
  const auto fetch = std::make_shared<StateFetch>();
  sequence->fetch = fetch;
  const SessionHandle session = sequence->session;
  inbox_->PutBack(std::move(sequence));
  CopyState(session, /*for_request=*/true,
            [fetch, inbox = inbox_](
                absl::StatusOr<StateSnapshots::Snapshot> snapshot) {
              fetch->End(std::move(snapshot));
              inbox->Wake();
            });
}

bool Engine::ResumeNext() {
  SequencePointer sequence = parked_.TakeNext(running_.shares());
  const absl::StatusOr<bool> unparked = keeper_.TryUnpark(sequence.get());
  if (!unparked.ok()) {
    EndUnmoved(sequence.get(), unparked.status());
    return true;
  }
  if (!*unparked) {
    parked_.Add(std::move(sequence));
    return !keeper_.RoomIsComing() && Park(running_.LongestPaused());
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

bool Engine::RunStep(bool may_run_ahead) {
  if (!failure_.ok()) return false;
  const absl::StatusOr<bool> ran = steps_.Run(running_, may_run_ahead);
  if (!ran.ok()) Fail(ran.status());
  return ran.value_or(false);
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
