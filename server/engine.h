// Engine: the one thread that owns a model on a device, and its StatePool. It
// takes requests from its inbox, gives them slots, has them run step by step
// (server/step_runner.h), parks what must wait and ends what is over.
//
// One iteration is RunOnce(), which never waits and reads time only from the
// Clock: tests turn it by hand. Run() is that in a loop.
//
// Where several devices run the model, each has an engine. Admission says which
// one runs a request; what that one goes on from it may have to fetch from a
// slot of another's, whose engine copies it into RAM.
//
// Every sequence that was admitted ends exactly once, by SequenceEnds.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "model/model.h"
#include "server/clock.h"
#include "server/delivery.h"
#include "server/engine_inbox.h"
#include "server/engine_outbox.h"
#include "server/inspections.h"
#include "server/metrics.h"
#include "server/parked_sequences.h"
#include "server/request.h"
#include "server/running_sequences.h"
#include "server/sequence.h"
#include "server/sequence_ends.h"
#include "server/sequence_progress.h"
#include "server/session_store.h"
#include "server/state_keeper.h"
#include "server/state_snapshots.h"
#include "server/step_runner.h"

namespace engram {

struct EngineOptions {
  // Of a step beside running streams (server/step_time.h).
  absl::Duration target_step_time = absl::Milliseconds(5);
  // Steps that a sequence may do before its slot is given to one that matters
  // more or is much shorter, and how long the rest of a prompt is that yields
  // to shorter ones.
  int64_t steps_in_a_slot = 64;
  int64_t long_prompt_tokens = 8192;
  // How long a full stream may pause its sequence.
  absl::Duration slow_reader_timeout = absl::Seconds(30);
  int max_queue = 1024;      // copies of states that may wait
  int max_inspections = 32;  // likewise
  // Once so much of states was moved for sequences that begin, the others that
  // wait begin before a later step, if streams run: about a millisecond. Nor
  // do states make way ahead while so much is on its way to RAM, where it is
  // counted only when it has come.
  size_t bytes_between_steps = size_t{4} << 20;
};

struct EngineModel {
  std::string name;
  Model* model = nullptr;
  int number = 0;  // SessionStore::AddModel
  int device = 0;  // of those that run the model
};

class Engine {
 public:
  // All pointers must outlive this; `metrics` may be nullptr. `on_end` is
  // called once for each sequence, on the engine thread.
  Engine(EngineModel model, const EngineOptions& options, EngineInbox* inbox,
         SessionStore* sessions, Delivery* delivery, Clock* clock,
         ModelMetrics* metrics,
         std::function<void(const RequestSummary&)> on_end);
  ~Engine();

  // The engines of all devices that run the model, by device, this one among
  // them. Before any of them runs; they must not be asked for anything after
  // one of them is gone.
  void SetEngines(std::vector<Engine*> engines) {
    engines_ = std::move(engines);
  }

  // Thread-safe. The engine finishes what it has; what runs or waits at
  // `deadline` ends with UNAVAILABLE. The inbox must be closed before.
  void Drain(absl::Time deadline);

  // Thread-safe. The committed state of `session`, for whoever asks. `done` is
  // called once: at once if the state lies in RAM or it is refused
  // (UNAVAILABLE: EngineInbox::Post; NOT_FOUND: the session was deleted), else
  // between the next steps, on the thread of the engine whose device has it.
  void Snapshot(SessionHandle session, StateSnapshots::Done done);
  // Thread-safe. A new session with the committed state of `source`; `done` is
  // called like Snapshot's. Errors: also SessionStore::InstallFork.
  void Fork(SessionHandle source, std::string new_session_id,
            std::function<void(absl::StatusOr<SessionInfo>)> done);

  // Thread-safe. Looks into the committed state of a session between steps; the
  // question's `done` is called once, on this engine's thread, or at once if it
  // is refused (UNAVAILABLE: EngineInbox::Post).
  void Inspect(SessionQuestion question);

  // Until drained or failed. The status says whether the device failed.
  absl::Status Run();

  // One iteration. False if there was nothing to run.
  bool RunOnce();

  // --- Engine thread, for tasks posted to it.

  // As Snapshot.
  void TakeSnapshot(SessionHandle session, StateSnapshots::Done done) {
    snapshots_.Add(std::move(session), std::move(done));
  }

  bool idle() const { return running_.size() + parked_.size() == 0; }
  // Those with a slot, and those that have yielded it.
  int running() const { return running_.size(); }
  int parked() const { return parked_.size(); }
  // That running sequences have beside their own.
  int spare_slots() const { return keeper_.spare_slots(); }
  // That are nobody's any more, or those of sequences that were parked, and
  // free once copies are done.
  int held_slots() const;

 private:
  using SequencePointer = std::unique_ptr<Sequence>;

  void ReadDrainDeadline();
  void RunTasks();
  // When there is nothing to run: for a copy that is not done, or for whoever
  // calls.
  void WaitForWork();
  // When nobody calls.
  absl::Duration TimeToWait() const;
  // For this engine, or for another that may want a state of it.
  bool NobodyWaits() const;
  void EndWaiting(absl::Time now);
  void EndRunning(absl::Time now);
  bool DrainIsOver(absl::Time now) const;
  absl::Status ReasonToEnd(Sequence* sequence, absl::Time now) const;
  // Whether the sequence waits for its reader, and for too long.
  absl::Status CheckReader(Sequence* sequence, absl::Time now) const;
  // What has waited too long for a slot.
  void EndOverdue(absl::Time now);
  // Gives free slots to what waits and to what was parked, and parks for them
  // what is paused, matters less or is much longer.
  void StartWaiting(absl::Time now);
  // False: it must wait on, and so must whatever comes after it.
  bool StartNext(absl::Time now);
  bool ResumeNext();
  // What waits behind the one that room is coming for will want some too.
  void EvictAhead();
  // As Snapshot; `done` is called on this engine's thread, if it runs on.
  void FetchToInspect(SessionHandle session, StateSnapshots::Done done);
  // A part of what is looked into. Whether there is more.
  bool InspectBetweenSteps();
  // Thread-safe. As Snapshot, from whichever device has the state; a request
  // that has been admitted is not refused.
  void CopyState(SessionHandle session, bool for_request,
                 StateSnapshots::Done done);
  // Asks for the state that the sequence goes on from; it waits on meanwhile.
  void Fetch(std::unique_ptr<Sequence> sequence);
  // The sequence yields its slot. False: there is none, or RAM has no room.
  bool Park(Sequence* sequence);
  void TellLoad();

  // Whether nothing is to be done between this step and the next, so that the
  // next may be begun before this one is finished.
  bool MayRunAhead(absl::Time now) const;
  // Ends, starts, parks and copies. Whether some of it is left for later.
  bool WorkBetweenSteps(absl::Time now);
  // False if nobody had anything to feed.
  bool RunStep(bool may_run_ahead);

  // The device failed: everything ends with FailureToTell().
  void Fail(const absl::Status& status);
  absl::Status FailureToTell() const;
  // Its state could not be moved: it ends, and all do if the device failed.
  void EndUnmoved(Sequence* sequence, const absl::Status& status);
  void ForgetOver();
  // With a slot and parked.
  std::vector<Sequence*> Begun() const;
  EngineLoad MeasureLoad() const;

  const EngineModel model_;
  const EngineOptions options_;
  EngineInbox* const inbox_;
  SessionStore* const sessions_;
  Clock* const clock_;
  ModelMetrics* const metrics_;
  const StatePool& states_;
  std::vector<Engine*> engines_ = {this};

  // Engine thread.
  StateKeeper keeper_;
  StateSnapshots snapshots_;
  Inspections inspections_;
  EngineOutbox outbox_;
  SequenceEnds ends_;
  SequenceProgress progress_;
  StepRunner steps_;
  RunningSequences running_;
  ParkedSequences parked_;
  std::optional<absl::Time> drain_deadline_;  // once Drain() was called
  absl::Status failure_;
  int steps_ahead_ = 0;  // in a row

  absl::Mutex mutex_;
  std::optional<absl::Time> asked_deadline_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram
