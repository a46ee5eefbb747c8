// ParkedSequences: those that have begun and yielded their slots, because their
// readers do not read, or because others matter more. Their states lie in RAM,
// counted like sessions', until they go on as if nothing had been.
//
// Engine thread only.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "model/state_pool.h"
#include "server/sequence.h"
#include "server/session_store.h"

namespace engram {

class ParkedSequences {
 public:
  // Both must outlive this.
  ParkedSequences(StatePool* states, SessionStore* sessions)
      : states_(states), sessions_(sessions) {}

  int size() const { return static_cast<int>(sequences_.size()); }
  // For those that end where they are; Forget must follow.
  const std::vector<std::unique_ptr<Sequence>>& all() const {
    return sequences_;
  }

  // Takes the sequence and frees its slot. False if RAM has no room: nothing
  // has changed then.
  bool Park(std::unique_ptr<Sequence>* sequence);

  // Whose reader has made ample room: of highest priority, then the earliest.
  // A full stream with room for one token would only be parked again.
  std::optional<WaitingRequest> Next() const;
  // REQUIRES: Next() told of one.
  std::unique_ptr<Sequence> TakeNext();
  void PutBack(std::unique_ptr<Sequence> sequence);
  // The state of the one that was just taken goes into its new slot.
  void Restore(Sequence* sequence);
  // The state is not needed any more; nothing if it is not parked.
  void Forget(Sequence* sequence);
  // Those that have ended.
  void DropOver();

 private:
  std::vector<std::unique_ptr<Sequence>>::const_iterator FindNext() const;

  StatePool* const states_;
  SessionStore* const sessions_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
};

}  // namespace engram
