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
// Copies between slots and RAM run beside the steps (server/state_copies.h):
// what yields a slot has it until its copy is done, and what is restored runs
// no row before (IsReady). A state that is being moved to RAM is where it was
// for whoever wants it, and a sequence that is being parked can stay.
//
// Engine thread only. While a step is ahead (server/step_runner.h) nothing is
// asked of this but SpareSlot and HasRun.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/state_pool.h"
#include "server/model_capacity.h"
#include "server/sequence.h"
#include "server/session_store.h"
#include "server/slot_number.h"
#include "server/state_block.h"
#include "server/state_copies.h"
#include "server/turn_record.h"

namespace engram {

class StateKeeper {
 public:
  // `states` are of the model that `sessions` knows by `number`, on its device
  // of that index. Both must outlive this.
  StateKeeper(StatePool* states, const ModelCapacity& capacity, int number,
              SessionStore* sessions, int device = 0);

  // The sequence has a slot from now on, and once it is ready SlotToRead holds
  // what `start` says was before it.
  // False, with nothing changed: there is no room for it before others end, or
  // before the room that comes.
  // CANCELLED or NOT_FOUND: its session was deleted. INVALID_ARGUMENT: one that
  // it only looks at has grown too long for it. RESOURCE_EXHAUSTED: there was
  // no memory of the host's for a state that had to make way. INTERNAL: the
  // device failed, and nothing is to be asked of this any more. ABORTED: the
  // state lies in a slot of another device, and nobody has fetched it.
  // REQUIRES: fewer sequences than there are slots have one; sequence->fetch is
  // null, or over and well.
  absl::StatusOr<bool> TryLoad(Sequence* sequence);
  // Whether a row of it may run: nothing is copied from or to its slot, nor to
  // the one that it is to read.
  bool IsReady(const Sequence& sequence) const {
    return !copies_.IsBusy(sequence.slot) &&
           !copies_.IsArriving(SlotToRead(sequence));
  }
  // Whether slots or blocks become free when copies are done that have begun.
  bool RoomIsComing() const { return slots_to_come() > 0; }
  // How many slots do.
  int slots_to_come() const { return leaving_ + copies_.slots_to_come(); }
  // Of the states that are on their way to RAM.
  size_t leaving_bytes() const { return leaving_bytes_; }
  // Begins to move one more committed state out of the way of those that want
  // slots. False: there is none. Errors: as for TryLoad.
  absl::StatusOr<bool> EvictAhead() { return EvictOne(); }
  // Does what the copies that are done were for; does not wait. INTERNAL: the
  // device failed.
  absl::Status Settle();
  // All that have begun, for whoever begins more, waits or wants to know.
  StateCopies& copies() { return copies_; }
  const StateCopies& copies() const { return copies_; }

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

  // The sequence's state goes to RAM, and then its slot is free. False if RAM
  // has no room or the sequence is not ready: nothing has changed then.
  // INTERNAL: as for TryLoad.
  absl::StatusOr<bool> TryPark(Sequence* sequence);
  // It has a slot again, the old one if that was not free yet, and its state
  // lies there once it is ready. False, with nothing changed, errors and
  // REQUIRES: as for TryLoad.
  absl::StatusOr<bool> TryUnpark(Sequence* sequence);

  // Takes the slots of sessions that are gone.
  void ReclaimSlots();

  // Bytes of states that were moved or copied for sequences, since the start.
  size_t moved_bytes() const { return moved_bytes_; }

 private:
  // Of a slot that is to be free when a copy is done.
  struct Leaving {
    int64_t copy = 0;
    std::shared_ptr<const StateBlock> block;
    // Whose state it is: a session's, or that of a sequence which is parked.
    SessionHandle session;
    Sequence* sequence = nullptr;
  };
  struct Slot {
    bool in_use = false;  // a sequence runs in it, or leaves it
    // The committed state's that the first row of that sequence is to read; -1:
    // it has run, or the state lies in this very slot.
    int source = -1;
    int spare = -1;          // of that sequence; -1: none
    int readers = 0;         // slots whose source this is
    bool abandoned = false;  // its session has left it to its readers
    std::optional<Leaving> leaving;
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
  // Begins to move a committed state to RAM, and does so if that is done at
  // once; false if there is none in a slot that is not on its way.
  absl::StatusOr<bool> EvictOne();
  void MoveToRam(const SessionHandle& session, int slot,
                 std::shared_ptr<const StateBlock> block);
  absl::StatusOr<Leaving> BeginCopyToLeave(int slot);
  void BeginLeaving(int slot, Leaving leaving);
  // If its copy is done.
  void EndLeaving(int slot);
  // Nothing leaves the slot, whatever has begun.
  void Stay(int slot);
  // The bytes that are set apart for the state of a parked sequence.
  void ForgetParked(Sequence* sequence);

  // The sequence in `slot` reads no other.
  void EndReading(int slot);
  // No session has the slot any more: it is free as soon as nobody reads it.
  void Abandon(int slot);
  // Who reads the slot gets a copy.
  absl::Status CopyToReaders(int slot);
  // A slot that only readers still hold; -1 if there is none.
  int FindAbandoned() const;

  StatePool& states_;
  const ModelCapacity capacity_;
  const int number_;
  const int device_;
  const int first_slot_;  // in the store's numbers
  SessionStore& sessions_;
  StateCopies copies_;
  std::vector<Slot> slots_;
  int leaving_ = 0;  // slots
  size_t leaving_bytes_ = 0;
  int spare_slots_ = 0;
  size_t moved_bytes_ = 0;
};

}  // namespace engram
