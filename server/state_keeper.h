// StateKeeper: the slots of one model on one device, who has them, and all that
// moves states between them and RAM.
//
// A sequence that runs has a slot of its own: TryLoad gives it one, Keep makes
// what it has come to its session's, and TryPark takes the slot away until
// TryUnpark gives it another. A committed state that lies in a slot is not
// copied for it: its first row reads that slot and writes its own
// (BatchRow::slot_out). Until it has run, the committed state is neither freed
// nor changed; where its slot is wanted before, the copy is made after all. The
// committed states of sessions lie in the other slots and yield them, the least
// recently used first, whenever a sequence wants one. Of a model with attention
// layers a sequence with a slot also has every block of keys and values set
// apart that it can come to need, so that none runs out half way.
//
// A sequence that may have to go back by a step has a spare slot beside its
// own: its rows leave their states in the two by turns. Who wants a slot for a
// sequence of its own takes a spare one first.
//
// Engine thread only. While a step is ahead (server/step_runner.h) nothing is
// asked of this but SpareSlot and HasRun.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/state_pool.h"
#include "server/model_capacity.h"
#include "server/sequence.h"
#include "server/session_store.h"
#include "server/slot_number.h"
#include "server/state_block.h"
#include "server/turn_record.h"

namespace engram {

class StateKeeper {
 public:
  // `states` are of the model that `sessions` knows by `number`, on its device
  // of that index. Both must outlive this.
  StateKeeper(StatePool* states, const ModelCapacity& capacity, int number,
              SessionStore* sessions, int device = 0);

  // The sequence has a slot from now on, and SlotToRead holds what `start` says
  // was before it.
  // False, with nothing changed: there is no room for it before others end.
  // CANCELLED or NOT_FOUND: its session was deleted. INVALID_ARGUMENT: one that
  // it only looks at has grown too long for it. RESOURCE_EXHAUSTED: there was
  // no memory of the host's for a state that had to make way. INTERNAL: the
  // device failed, and nothing is to be asked of this any more. ABORTED: the
  // state lies in a slot of another device, and nobody has fetched it.
  // REQUIRES: fewer sequences than there are slots have one; sequence->fetch is
  // null, or over and well.
  absl::StatusOr<bool> TryLoad(Sequence* sequence);
  // Where a row of the sequence finds its state, to leave it in the sequence's
  // own slot: another one only before its first row.
  int SlotToRead(const Sequence& sequence) const;
  // The sequence has a spare slot until it ends or parks, or somebody takes it
  // away. False: there is none, though idle states have made way. INTERNAL: as
  // for TryLoad.
  absl::StatusOr<bool> TryTakeSpare(const Sequence& sequence);
  // -1: it has none.
  int SpareSlot(const Sequence& sequence) const {
    return slots_[sequence.slot].spare;
  }
  int spare_slots() const { return spare_slots_; }  // of all sequences
  // A row of the sequence has run and left its state in `slot`: its own, or its
  // spare one, which is its own from now on, and the other one its spare.
  void HasRun(Sequence* sequence, int slot);
  // Commits the sequence's turn with the state that it has come to, which is
  // its session's from now on. False if the session was deleted meanwhile.
  // REQUIRES: a row of it has run, or nothing was before it.
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
  struct Slot {
    bool in_use = false;  // a sequence runs in it
    // The committed state's that the first row of that sequence is to read; -1:
    // it has run, or the state lies in this very slot.
    int source = -1;
    int spare = -1;          // of that sequence; -1: none
    int readers = 0;         // slots whose source this is
    bool abandoned = false;  // its session has left it to its readers
  };

  // Slots are this device's from here on; what another one has in a slot is in
  // RAM.
  absl::StatusOr<SessionStore::Location> Locate(const Sequence& sequence) const;
  bool IsMine(int slot) const { return DeviceOfSlot(slot) == device_; }
  // A slot for the sequence, that begins as a copy of slot `source` or, if that
  // is -1, otherwise. False: there is none yet.
  bool TryTakeSlot(Sequence* sequence, int source);
  // Moves a committed state out of the way of TryTakeSlot. False: that would
  // not help.
  absl::StatusOr<bool> MakeRoom(const Sequence& sequence, int source);
  // The state there is what the sequence in `slot` begins with.
  absl::Status SetState(int slot, const SessionStore::Location& location);
  void FreeSlot(Sequence* sequence);
  // Of the sequence in `slot`; false if it has none.
  bool FreeSpare(int slot);
  // Moves a committed state to RAM; false if there is none in a slot.
  absl::StatusOr<bool> EvictOne();
  absl::StatusOr<std::shared_ptr<const StateBlock>> SaveBlock(int slot) const;
  // The bytes that are set apart for the state of a parked sequence.
  void ForgetParked(Sequence* sequence);

  // The sequence in `slot` reads no other.
  void EndReading(int slot);
  // No session has the slot any more: it is free as soon as nobody reads it.
  void Abandon(int slot);
  // Who reads the slot gets a copy.
  absl::Status CopyToReaders(int slot);
  // A slot that only readers still hold is free then; false if there is none.
  absl::StatusOr<bool> FreeAbandoned();

  StatePool& states_;
  const ModelCapacity capacity_;
  const int number_;
  const int device_;
  const int first_slot_;  // in the store's numbers
  SessionStore& sessions_;
  std::vector<Slot> slots_;
  int spare_slots_ = 0;
  size_t moved_bytes_ = 0;
};

}  // namespace engram
