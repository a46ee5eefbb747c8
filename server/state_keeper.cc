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
        states_.Restore(slot, location.block->data(), location.turns.position));
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
  const std::shared_ptr<const StateBlock> parked_state = sequence->parked_state;
  ForgetParked(sequence);
  const int slot = sequence->slot;
  ENGRAM_CHECK(slot < 0 || slots_[slot].source < 0);
  if (!sessions_.Commit(sequence->session, std::move(turns),
                        slot < 0 ? -1 : first_slot_ + slot, std::move(record),
                        parked_state)) {
    return false;
  }
  if (slot >= 0) {
    FreeSpare(slot);
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
  slots_[sequence->slot].in_use = false;
  states_.Free(sequence->slot);
  sequence->slot = -1;
}

// --- Spare slots.

absl::StatusOr<bool> StateKeeper::TryTakeSpare(const Sequence& sequence) {
  int& spare = slots_[sequence.slot].spare;
  if (spare >= 0) return true;
  if (states_.free_slots() == 0) {
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
  states_.Free(spare);
  --spare_slots_;
  return true;
}

// --- Parked.

absl::StatusOr<bool> StateKeeper::TryPark(Sequence* sequence) {
  const int slot = SlotToRead(*sequence);
  const size_t bytes = states_.bytes(slot);
  if (!sessions_.HoldForParked(bytes)) return false;
  absl::StatusOr<std::shared_ptr<const StateBlock>> block = SaveBlock(slot);
  if (!block.ok()) {
    sessions_.ReleaseParked(bytes);
    if (absl::IsResourceExhausted(block.status())) return false;
    return block.status();
  }
  sequence->parked_state = *std::move(block);
  moved_bytes_ += bytes;
  FreeSlot(sequence);
  return true;
}

absl::StatusOr<bool> StateKeeper::TryUnpark(Sequence* sequence) {
  while (!TryTakeSlot(sequence, /*source=*/-1)) {
    ENGRAM_ASSIGN_OR_RETURN(const bool has_room,
                            MakeRoom(*sequence, /*source=*/-1));
    if (!has_room) return false;
  }
  ENGRAM_RETURN_IF_ERROR(
      states_.Restore(sequence->slot, sequence->parked_state->data(),
                      sequence->start.position + sequence->position));
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
  // What costs nothing, a copy, and a move to RAM, in this order.
  for (int slot = 0; slot < states_.slots(); ++slot) {
    if (FreeSpare(slot)) return true;
  }
  ENGRAM_ASSIGN_OR_RETURN(const bool freed, FreeAbandoned());
  if (freed) return true;
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
  const auto resident = sessions_.EvictionCandidate(number_, device_);
  if (!resident.has_value()) return false;
  const int slot = resident->slot - first_slot_;
  std::shared_ptr<const StateBlock> block = resident->copy;
  if (block == nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(block, SaveBlock(slot));
    moved_bytes_ += block->size();
  }
  if (sessions_.MoveToRam(resident->session, resident->slot, block)) {
    // Whoever reads it still keeps it until MakeRoom comes by again.
    Abandon(slot);
  } else {
    // Its session was deleted meanwhile, and left the slot behind.
    ReclaimSlots();
  }
  return true;
}

absl::StatusOr<std::shared_ptr<const StateBlock>> StateKeeper::SaveBlock(
    int slot) const {
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> memory,
                          states_.AllocateHost(states_.bytes(slot)));
  auto block = std::make_shared<StateBlock>(std::move(memory));
  ENGRAM_RETURN_IF_ERROR(states_.Save(slot, block->data()));
  return block;
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
  slots_[slot].abandoned = slots_[slot].readers > 0;
  if (!slots_[slot].abandoned) states_.Free(slot);
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

absl::StatusOr<bool> StateKeeper::FreeAbandoned() {
  for (int slot = 0; slot < states_.slots(); ++slot) {
    if (!slots_[slot].abandoned) continue;
    ENGRAM_RETURN_IF_ERROR(CopyToReaders(slot));
    return true;
  }
  return false;
}

}  // namespace engram
