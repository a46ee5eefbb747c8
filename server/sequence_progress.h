// SequenceProgress: what a sequence makes of what its row of a step came to.
// Tokens and scores are told to its reader; a token that was drawn is fed next,
// unless it is the last, with which the sequence has come to its end.
//
// Engine thread only.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "model/batch.h"
#include "server/engine_outbox.h"
#include "server/metrics.h"
#include "server/sequence.h"
#include "server/sequence_ends.h"

namespace engram {

class SequenceProgress {
 public:
  // Of an answer that is longer than `answer_bytes` nothing is kept for a
  // repeat of the turn. All pointers must outlive this.
  SequenceProgress(EngineOutbox* outbox, size_t answer_bytes)
      : outbox_(*outbox), answer_bytes_(answer_bytes) {}

  // The next `tokens` (> 0) of what the sequence has to feed were fed by a row
  // that came to `outcome`, and the step was finished at `now`. Adds what is
  // generated to `observation`. The end that the sequence has come to, if it
  // has: INTERNAL if the row is not finite. It still has its slot then.
  std::optional<SequenceEnd> Advance(Sequence* sequence, int tokens,
                                     const RowOutcome& outcome, absl::Time now,
                                     StepObservation* observation);

 private:
  // Its prompt is fed. The end, if nothing is to be generated.
  std::optional<SequenceEnd> BeginDecoding(Sequence* sequence, absl::Time now);
  void TellScores(Sequence* sequence, absl::Span<const Outcome> scores);
  // nullptr: nothing goes before the token that it could be predicted from.
  void TellScore(Sequence* sequence, const Outcome* score);
  std::optional<SequenceEnd> TellToken(Sequence* sequence, const Outcome& drawn,
                                       absl::Time now,
                                       StepObservation* observation);
  void KeepForRepeat(Sequence* sequence, float logprob,
                     const std::vector<LogProbability>& top);

  EngineOutbox& outbox_;
  const size_t answer_bytes_;
};

}  // namespace engram
