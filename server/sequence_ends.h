// SequenceEnds: how a sequence ends, which each that was admitted does exactly
// once: its turn is committed or taken back, what it had is given back, its end
// is reported, and then its reader is told.
//
// Engine thread only.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "server/clock.h"
#include "server/engine_outbox.h"
#include "server/request.h"
#include "server/sequence.h"
#include "server/session_store.h"
#include "server/state_keeper.h"

namespace engram {

// What a reader is told first of a sequence that has its slot.
StartedEvent MakeStarted(const Sequence& sequence);

// How a sequence ends.
struct SequenceEnd {
  // OK: by itself, for `reason`.
  absl::Status status = absl::OkStatus();
  FinishReason reason = FinishReason::kLength;
};

class SequenceEnds {
 public:
  // `on_end` is called once for each sequence, before its reader is told. All
  // pointers must outlive this.
  SequenceEnds(std::string model, StateKeeper* states, SessionStore* sessions,
               EngineOutbox* outbox, Clock* clock,
               std::function<void(const RequestSummary&)> on_end);

  // By itself: its turn commits.
  void Complete(Sequence* sequence, FinishReason reason);
  // From outside, or because it cannot go on. Its turn is taken back, unless
  // the request wants its fragment kept and `status` allows it.
  void End(Sequence* sequence, absl::Status status);
  // The one or the other.
  void End(Sequence* sequence, SequenceEnd end);

 private:
  // False if the session was deleted.
  bool CommitTurn(Sequence* sequence, const CompletedEvent& completed);
  CompletedEvent MakeCompleted(const Sequence& sequence, FinishReason reason,
                               absl::Time now) const;
  void Release(Sequence* sequence);
  // The last of its stream. `completed` is told if something was completed; its
  // figures go with the end in any case.
  void TellEnd(Sequence* sequence, CompletedEvent completed, bool is_told,
               absl::Status status);
  // Log and metrics get the figures of `completed`, which the client is told
  // too if something was completed.
  void Report(const Sequence& sequence, const CompletedEvent& completed,
              bool is_told, const absl::Status& status);

  const std::string model_;
  StateKeeper& states_;
  SessionStore& sessions_;
  EngineOutbox& outbox_;
  Clock& clock_;
  const std::function<void(const RequestSummary&)> on_end_;
};

}  // namespace engram
