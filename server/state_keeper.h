// StateKeeper: the slots of one model, who has them, and all that moves states
// between them and RAM.
//
// A sequence that runs has a slot of its own: TryLoad gives it one with the
// state that it begins with, Keep makes what it has come to its session's, and
// TryPark takes the slot away until TryUnpark gives it another. The committed
// states of sessions lie in the other slots and yield them, the least recently
// used first, whenever a sequence wants one. Of a model with attention layers a
// sequence with a slot also has every block of keys and values set apart that
// it can come to need, so that none runs out half way.
//
// Engine thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "model/state_pool.h"
#include "server/model_capacity.h"
#include "server/sequence.h"
#include "server/session_store.h"
#include "server/state_block.h"
#include "server/turn_record.h"

namespace engram {

class StateKeeper {
 public:
  // `states` are of the model that `sessions` knows by `number`. Both must
  // outlive this.
  StateKeeper(StatePool* states, const ModelCapacity& capacity, int number,
              SessionStore* sessions);

  // The sequence has a slot from now on, with what `start` says was before it.
  // False, with nothing changed: there is no room for it before others end.
  // CANCELLED or NOT_FOUND: its session was deleted. INVALID_ARGUMENT: one that
  // it only looks at has grown too long for it. RESOURCE_EXHAUSTED: there was
  // no memory of the host's for a state that had to make way. INTERNAL: the
  // device failed, and nothing is to be asked of this any more.
  // REQUIRES: fewer sequences than there are slots have one.
  absl::StatusOr<bool> TryLoad(Sequence* sequence);
  // Commits the sequence's turn with the state that it has come to, which is
  // its session's from now on. False if the session was deleted meanwhile.
  bool Keep(Sequence* sequence, CommittedTurns turns, TurnRecord record);
  // What the sequence has of slots and RAM is free again.
  void Release(Sequence* sequence);

  // The sequence's state goes to RAM and its slot is free. False if RAM has no
  // room: nothing has changed then. INTERNAL: as for TryLoad.
  absl::StatusOr<bool> TryPark(Sequence* sequence);
  // Its state lies in a slot again. False, with nothing changed, errors and
  // REQUIRES: as for TryLoad.
  absl::StatusOr<bool> TryUnpark(Sequence* sequence);

  // Takes the slots of sessions that are gone.
  void ReclaimSlots();

  // Bytes of states that were moved or copied for sequences, since the start.
  size_t moved_bytes() const { return moved_bytes_; }

 private:
  absl::StatusOr<SessionStore::Location> Locate(const Sequence& sequence) const;
  // A slot for the sequence, that begins as a copy of slot `source` or, if that
  // is -1, otherwise. False: there is none yet.
  bool TryTakeSlot(Sequence* sequence, int source);
  // Moves a committed state out of the way of TryTakeSlot. False: that would
  // not help.
  absl::StatusOr<bool> MakeRoom(const Sequence& sequence, int source);
  absl::Status CopyState(int slot, const SessionStore::Location& location);
  void FreeSlot(Sequence* sequence);
  // Moves a committed state to RAM; false if there is none in a slot.
  absl::StatusOr<bool> EvictOne();
  absl::StatusOr<std::shared_ptr<const StateBlock>> SaveBlock(int slot) const;
  // The bytes that are set apart for the state of a parked sequence.
  void ForgetParked(Sequence* sequence);

  StatePool& states_;
  const ModelCapacity capacity_;
  const int number_;
  SessionStore& sessions_;
  std::vector<bool> in_use_;  // per slot: a sequence runs in it
  size_t moved_bytes_ = 0;
};

}  // namespace engram
