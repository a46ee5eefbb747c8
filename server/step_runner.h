// StepRunner: the steps of one engine. Each is planned (server/scheduler.h),
// filled with a row for every sequence that is in it, run by the model, and
// what came out is handed to the sequences (server/sequence_progress.h).
//
// A device need not wait for the host to read what it drew: the next step may
// be begun before (Model::Begin), where that is the same sequences once more.
// As long as such a step is ahead, the slots of its sequences are the model's.
// A stop string is seen too late, when what it ends with is being fed: a
// sequence that has some leaves its state in two slots by turns, and keeps the
// older one when it ends.
//
// Engine thread only.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "model/batch.h"
#include "model/model.h"
#include "server/clock.h"
#include "server/metrics.h"
#include "server/running_sequences.h"
#include "server/scheduler.h"
#include "server/sequence.h"
#include "server/sequence_ends.h"
#include "server/sequence_progress.h"
#include "server/state_keeper.h"
#include "server/step_time.h"
#include "server/tenant.h"
#include "server/tenant_shares.h"

namespace engram {

class StepRunner {
 public:
  // `target`: of a step beside running streams (server/step_time.h). All
  // pointers must outlive this; `metrics` may be nullptr.
  StepRunner(Model* model, absl::Duration target, StateKeeper* states,
             SequenceProgress* progress, SequenceEnds* ends, Clock* clock,
             ModelMetrics* metrics);

  // One step of those that have something to feed and room for what is said.
  // False if none has. Some may be over then, and are still there; if so, no
  // step is ahead. INTERNAL: the device failed, nobody has ended, and nothing
  // is to be asked of the model any more. With `may_run_ahead` the step after
  // it may be begun; and if one is ahead, this finishes that, and `running` are
  // still the same.
  absl::StatusOr<bool> Run(const RunningSequences& running,
                           bool may_run_ahead = false);
  bool is_ahead() const { return ahead_.has_value(); }
  // When somebody may be fed again who has something to feed and was left out
  // of the last step for its tenant's pace; InfiniteFuture if nobody was.
  absl::Time pace_resumes() const { return pace_resumes_; }
  // Finishes the step that is ahead, if one is. INTERNAL: as for Run.
  absl::Status Settle();

  // For each prompt token, if a step beside so many streams has as many as it
  // may.
  absl::Duration TimePerPromptToken(int streams) const {
    return step_time_.TimePerPromptToken(streams,
                                         model_.limits().max_batch_tokens);
  }

 private:
  struct Step {
    Batch batch;
    std::vector<Sequence*> sequences;  // of each row
    StepObservation observation;
    absl::Time begin;
  };

  // Those that have come to their ends and have still their slots.
  using Ends = std::vector<std::pair<Sequence*, SequenceEnd>>;

  // What one tenant has in a step.
  struct Part {
    Tenant* tenant = nullptr;  // nullptr: of no name
    TenantDemand demand;       // no tokens: nobody has something to feed
    bool has_prompts = false;
    int64_t taken = 0;       // of what its pace allows (Tenant::TakeTokens)
    bool is_slowed = false;  // by its pace: it wants more than that
    bool is_held = false;    // by its pace, from the whole step
    int64_t fed = 0;
  };
  struct Candidates {
    std::vector<Candidate> all;  // of those that run, in their order
    std::vector<Part> parts;     // by Candidate::tenant
  };

  // The tokens that each of `running` feeds, 0 for those that wait.
  std::vector<int> Plan(const RunningSequences& running);
  Candidates FindCandidates(const RunningSequences& running) const;
  // Leaves out whose tenants have fed what they may, for now.
  void KeepPace(Candidates* candidates);
  StepLimits Limits(const Candidates& candidates) const;
  // What each of the tenants may have of the step; `limits` become those of a
  // step that several share, if they do.
  std::vector<StepTenant> ShareStep(const Candidates& candidates,
                                    StepLimits* limits);
  // What was planned is counted.
  void SettleShares(const std::vector<int>& plan, Candidates* candidates);
  BatchRow MakeRow(const Sequence& sequence, int tokens) const;
  Step Fill(const RunningSequences& running);
  absl::Status Begin(Step* step);
  // Whether the step after this one is the same once more, and only what is
  // drawn can end its sequences.
  bool GoesOn(const Step& step, const RunningSequences& running) const;
  // Whether each sequence of the step that may have to go back by a step has
  // now a slot for it. One state at most is moved out of their way, so that it
  // may take some steps. Errors: StateKeeper::TryTakeSpare.
  absl::StatusOr<bool> TakeSpares(const Step& step);
  // Whether the tenants of its sequences may feed so many tokens once more,
  // which are taken then.
  bool TakeTokensAhead(const Step& step);
  // It had ended before the step that was ahead.
  void GiveBackTokenAhead(const Sequence& sequence);
  // The row behind `row`, which is begun. Its draw comes one token later.
  BatchRow MakeRowAhead(const Sequence& sequence, const BatchRow& row) const;
  // Begins the step after one that is begun and goes on.
  absl::Status BeginAhead(const Step& step);
  Ends AdvanceAll(Step* step, const StepResult& result);
  void EndAll(Ends ends);

  Model& model_;
  StateKeeper& states_;
  SequenceProgress& progress_;
  SequenceEnds& ends_;
  Clock& clock_;
  ModelMetrics* const metrics_;
  StepTime step_time_;
  TenantShares shares_;
  absl::Time pace_resumes_ = absl::InfiniteFuture();
  absl::Time last_finished_ = absl::InfinitePast();
  std::optional<Step> ahead_;  // begun, and not finished
};

}  // namespace engram
