// StepRunner: the steps of one engine. Each is planned (server/scheduler.h),
// filled with a row for every sequence that is in it, run by the model, and
// what came out is handed to the sequences (server/sequence_progress.h).
//
// Engine thread only.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "model/batch.h"
#include "model/model.h"
#include "server/clock.h"
#include "server/metrics.h"
#include "server/running_sequences.h"
#include "server/sequence.h"
#include "server/sequence_progress.h"
#include "server/state_keeper.h"
#include "server/step_time.h"

namespace engram {

class StepRunner {
 public:
  // `target`: of a step beside running streams (server/step_time.h). All
  // pointers must outlive this; `metrics` may be nullptr.
  StepRunner(Model* model, absl::Duration target, StateKeeper* states,
             SequenceProgress* progress, Clock* clock, ModelMetrics* metrics);

  // One step of those that have something to feed and room for what is said.
  // False if none has. Some may be over then, and are still there. INTERNAL:
  // the device failed, nobody has gone on, and nothing is to be asked of the
  // model any more.
  absl::StatusOr<bool> Run(const RunningSequences& running);

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
  };

  // The tokens that each of `running` feeds, 0 for those that wait.
  std::vector<int> Plan(const RunningSequences& running) const;
  BatchRow MakeRow(const Sequence& sequence, int tokens) const;
  Step Fill(const RunningSequences& running) const;
  void AdvanceAll(Step* step, const StepResult& result);

  Model& model_;
  StateKeeper& states_;
  SequenceProgress& progress_;
  Clock& clock_;
  ModelMetrics* const metrics_;
  StepTime step_time_;
};

}  // namespace engram
