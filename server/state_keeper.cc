#include "server/state_keeper.h"

#include <utility>

#include "kernels/status.h"

namespace engram {

StateKeeper::StateKeeper(StatePool* states, const ModelCapacity& capacity,
                         int number, SessionStore* sessions, int device)
    : states_(*states),
      capacity_(capacity),
      number_(number),
      device_(device),
      first_slot_(FirstSlotOf(device)),
      sessions_(*sessions),
      copies_(states),
      slots_(states->slots()) {}

// --- A sequence's slot.

absl::StatusOr<bool> StateKeeper::TryLoad(Sequence* sequence) {
  while (true) {
    ENGRAM_ASSIGN_OR_RETURN(const SessionStore::Location location,
                            Locate(*sequence));
    sequence->start = location.turns;
    // A session that is only looked at may have grown since admission.
    ENGRAM_RETURN_IF_ERROR(
        CheckLength(capacity_, sequence->start.tokens(), sequence->request));
    if (TryTakeSlot(sequence, location.slot)) {
      const absl::Status set = SetState(sequence->slot, location);
      sequence->fetch = nullptr;
      if (set.ok()) return true;
      FreeSlot(sequence);
      return set;
    }
    // May move this very session's state.
    ENGRAM_ASSIGN_OR_RETURN(const bool has_room,
                            MakeRoom(*sequence, location.slot));
    if (!has_room) return false;
  }
}

absl::StatusOr<SessionStore::Location> StateKeeper::Locate(
    const Sequence& sequence) const {
  if (sequence.session == nullptr) return SessionStore::Location();
  absl::StatusOr<SessionStore::Location> location =
      sessions_.Locate(sequence.session);
  if (!location.ok() && sequence.is_turn()) {
    // Deleted since the engine looked for what is cancelled.
    return absl::CancelledError(location.status().message());
  }
  if (!location.ok() || location->slot < 0) return location;
  if (IsMine(location->slot)) {
    location->slot -= first_slot_;
  } else if (location->block != nullptr) {
    location->slot = -1;
  } else if (sequence.fetch != nullptr) {
    // A turn's session is still as it was then; what only looks at it may see
    // it before its last turn.
    const StateSnapshots::Snapshot& fetched = *sequence.fetch->answer();
    return SessionStore::Location{fetched.turns, -1, fetched.block};
  } else {
    return absl::AbortedError("the state is in a slot of another device");
  }
  return location;
}

absl::Status StateKeeper::SetState(int slot,
                                   const SessionStore::Location& location) {
  if (location.slot >= 0) {
    slots_[slot].source = location.slot;
    ++slots_[location.slot].readers;
    return absl::OkStatus();
  }
  if (location.block != nullptr) {
    ENGRAM_RETURN_IF_ERROR(
        copies_.BeginRestore(slot, location.block, location.turns.position)
            .status());
    sessions_.CountRestore(number_);
  } else {
    ENGRAM_RETURN_IF_ERROR(states_.Clear(slot));
  }
  moved_bytes_ += states_.bytes(slot);
  return absl::OkStatus();
}

int StateKeeper::SlotToRead(const Sequence& sequence) const {
  const int source = slots_[sequence.slot].source;
  return source < 0 ? sequence.slot : source;
}

void StateKeeper::HasRun(Sequence* sequence, int slot) {
  const int own = sequence->slot;
  EndReading(own);
  if (slot == own) return;
  ENGRAM_CHECK(slot == slots_[own].spare);
  std::swap(slots_[slot], slots_[own]);
  slots_[slot].spare = own;
  sequence->slot = slot;
}

bool StateKeeper::Keep(Sequence* sequence, CommittedTurns turns,
                       TurnRecord record) {
  const int slot = sequence->slot;
  // One that is being parked has its slot still.
  const auto parked_state = slot < 0 ? sequence->parked_state : nullptr;
  ForgetParked(sequence);
  ENGRAM_CHECK(slot < 0 || slots_[slot].source < 0);
  if (!sessions_.Commit(sequence->session, std::move(turns),
                        slot < 0 ? -1 : first_slot_ + slot, std::move(record),
                        parked_state)) {
    return false;
  }
  if (slot >= 0) {
    FreeSpare(slot);
    Stay(slot);
    slots_[slot].in_use = false;
    states_.Seal(slot);
  }
  sequence->slot = -1;
  ReclaimSlots();
  return true;
}

void StateKeeper::Release(Sequence* sequence) {
  FreeSlot(sequence);
  ForgetParked(sequence);
}

void StateKeeper::FreeSlot(Sequence* sequence) {
  if (sequence->slot < 0) return;
  EndReading(sequence->slot);
  FreeSpare(sequence->slot);
  Stay(sequence->slot);
  slots_[sequence->slot].in_use = false;
  copies_.Free(sequence->slot);
  sequence->slot = -1;
}

// --- Spare slots.

absl::StatusOr<bool> StateKeeper::TryTakeSpare(const Sequence& sequence) {
  int& spare = slots_[sequence.slot].spare;
  if (spare >= 0) return true;
  if (states_.free_slots() == 0) {
    if (RoomIsComing()) return false;
    const absl::StatusOr<bool> evicted = EvictOne();
    if (absl::IsResourceExhausted(evicted.status())) return false;
    ENGRAM_RETURN_IF_ERROR(evicted.status());
  }
  spare =
      states_.TryTake(TokensInTheEnd(sequence.start.tokens(), sequence.request),
                      SlotToRead(sequence));
  if (spare < 0) return false;
  ++spare_slots_;
  return true;
}

bool StateKeeper::FreeSpare(int slot) {
  const int spare = std::exchange(slots_[slot].spare, -1);
  if (spare < 0) return false;
  copies_.Free(spare);
  --spare_slots_;
  return true;
}

// --- Parked.

absl::StatusOr<bool> StateKeeper::TryPark(Sequence* sequence) {
  if (!IsReady(*sequence)) return false;
  const int slot = SlotToRead(*sequence);
  const size_t bytes = states_.bytes(slot);
  if (!sessions_.HoldForParked(bytes)) return false;
  absl::StatusOr<Leaving> leaving = BeginCopyToLeave(slot);
  if (!leaving.ok()) {
    sessions_.ReleaseParked(bytes);
    if (absl::IsResourceExhausted(leaving.status())) return false;
    return leaving.status();
  }
  sequence->parked_state = leaving->block;
  leaving->sequence = sequence;
  FreeSpare(sequence->slot);
  BeginLeaving(sequence->slot, *std::move(leaving));
  return true;
}

absl::StatusOr<bool> StateKeeper::TryUnpark(Sequence* sequence) {
  if (sequence->slot >= 0) {
    Stay(sequence->slot);
    ForgetParked(sequence);
    return true;
  }
  while (!TryTakeSlot(sequence, /*source=*/-1)) {
    ENGRAM_ASSIGN_OR_RETURN(const bool has_room,
                            MakeRoom(*sequence, /*source=*/-1));
    if (!has_room) return false;
  }
  ENGRAM_RETURN_IF_ERROR(
      copies_
          .BeginRestore(sequence->slot, sequence->parked_state,
                        sequence->start.position + sequence->position)
          .status());
  moved_bytes_ += sequence->parked_state->size();
  ForgetParked(sequence);
  return true;
}

void StateKeeper::ForgetParked(Sequence* sequence) {
  if (sequence->parked_state == nullptr) return;
  sessions_.ReleaseParked(sequence->parked_state->size());
  sequence->parked_state = nullptr;
}

// --- Room.

bool StateKeeper::TryTakeSlot(Sequence* sequence, int source) {
  sequence->slot = states_.TryTake(
      TokensInTheEnd(sequence->start.tokens(), sequence->request), source);
  if (sequence->slot < 0) return false;
  slots_[sequence->slot].in_use = true;
  return true;
}

absl::StatusOr<bool> StateKeeper::MakeRoom(const Sequence& sequence,
                                           int source) {
  // What would make more of it is for others.
  if (RoomIsComing()) return false;
  // What costs nothing, a copy, and a move to RAM, in this order.
  for (int slot = 0; slot < states_.slots(); ++slot) {
    if (FreeSpare(slot)) return true;
  }
  if (const int abandoned = FindAbandoned(); abandoned >= 0) {
    // It is to be read by a sequence that will run then, and leave it.
    if (copies_.IsArriving(abandoned)) return false;
    ENGRAM_RETURN_IF_ERROR(CopyToReaders(abandoned));
    return true;
  }
  if (states_.free_slots() == 0) {
    // If no state is there to be moved, sessions were deleted meanwhile and
    // left their slots behind.
    ENGRAM_ASSIGN_OR_RETURN(const bool evicted, EvictOne());
    if (!evicted) ReclaimSlots();
    return true;
  }
  std::vector<int> running;
  for (int slot = 0; slot < states_.slots(); ++slot) {
    // A sequence shares the blocks of what its first row is to read.
    if (slots_[slot].in_use || slots_[slot].readers > 0) {
      running.push_back(slot);
    }
  }
  const int64_t tokens =
      TokensInTheEnd(sequence.start.tokens(), sequence.request);
  if (!states_.FitsBeside(running, tokens, source)) return false;
  return EvictOne();
}

// --- Committed states.

absl::StatusOr<bool> StateKeeper::EvictOne() {
  std::vector<int> leaving_slots;
  for (int slot = 0; leaving_ > 0 && slot < states_.slots(); ++slot) {
    if (!slots_[slot].leaving.has_value()) continue;
    leaving_slots.push_back(first_slot_ + slot);
  }
  const auto resident =
      sessions_.EvictionCandidate(number_, device_, leaving_slots);
  if (!resident.has_value()) return false;
  const int slot = resident->slot - first_slot_;
  if (resident->copy != nullptr) {
    MoveToRam(resident->session, slot, resident->copy);
    return true;
  }
  ENGRAM_ASSIGN_OR_RETURN(Leaving leaving, BeginCopyToLeave(slot));
  leaving.session = resident->session;
  BeginLeaving(slot, std::move(leaving));
  return true;
}

void StateKeeper::MoveToRam(const SessionHandle& session, int slot,
                            std::shared_ptr<const StateBlock> block) {
  if (sessions_.MoveToRam(session, first_slot_ + slot, std::move(block))) {
    // Whoever reads it still keeps it until MakeRoom comes by again.
    Abandon(slot);
  } else {
    // Its session has left the slot behind meanwhile.
    ReclaimSlots();
  }
}

absl::StatusOr<StateKeeper::Leaving> StateKeeper::BeginCopyToLeave(int slot) {
  const size_t bytes = states_.bytes(slot);
  ENGRAM_ASSIGN_OR_RETURN(StatePool::HostMemory memory,
                          states_.AllocateHost(bytes));
  auto block = std::make_shared<StateBlock>(std::move(memory.buffer));
  Leaving leaving;
  leaving.block = block;
  ENGRAM_ASSIGN_OR_RETURN(leaving.copy,
                          copies_.BeginSave(slot, 0, bytes, std::move(block)));
  moved_bytes_ += bytes;
  return leaving;
}

void StateKeeper::BeginLeaving(int slot, Leaving leaving) {
  ++leaving_;
  leaving_bytes_ += leaving.block->size();
  slots_[slot].leaving = std::move(leaving);
  EndLeaving(slot);
}

absl::Status StateKeeper::Settle() {
  ENGRAM_RETURN_IF_ERROR(copies_.Settle());
  for (int slot = 0; leaving_ > 0 && slot < states_.slots(); ++slot) {
    EndLeaving(slot);
  }
  return absl::OkStatus();
}

void StateKeeper::EndLeaving(int slot) {
  if (!slots_[slot].leaving.has_value() ||
      !copies_.IsDone(slots_[slot].leaving->copy)) {
    return;
  }
  const Leaving left = *slots_[slot].leaving;
  Stay(slot);
  if (left.sequence != nullptr) {
    FreeSlot(left.sequence);
  } else {
    MoveToRam(left.session, slot, left.block);
  }
}

void StateKeeper::Stay(int slot) {
  if (!slots_[slot].leaving.has_value()) return;
  --leaving_;
  leaving_bytes_ -= slots_[slot].leaving->block->size();
  slots_[slot].leaving.reset();
}

void StateKeeper::ReclaimSlots() {
  for (int slot : sessions_.ReleasedSlots(number_, device_)) {
    Abandon(slot - first_slot_);
  }
}

// --- Committed states that first rows are to read.

void StateKeeper::EndReading(int slot) {
  const int source = std::exchange(slots_[slot].source, -1);
  if (source < 0) return;
  --slots_[source].readers;
  if (slots_[source].abandoned) Abandon(source);
}

void StateKeeper::Abandon(int slot) {
  Stay(slot);
  slots_[slot].abandoned = slots_[slot].readers > 0;
  if (!slots_[slot].abandoned) copies_.Free(slot);
}

absl::Status StateKeeper::CopyToReaders(int slot) {
  for (int reader = 0; reader < states_.slots(); ++reader) {
    if (slots_[reader].source != slot) continue;
    ENGRAM_RETURN_IF_ERROR(states_.CopySlot(reader, slot));
    moved_bytes_ += states_.bytes(reader);
    EndReading(reader);
  }
  return absl::OkStatus();
}

int StateKeeper::FindAbandoned() const {
  for (int slot = 0; slot < states_.slots(); ++slot) {
    if (slots_[slot].abandoned) return slot;
  }
  return -1;
}

}  // namespace engram
