#include "server/session_ledger.h"

#include <utility>

#include "server/session.h"

namespace engram {
namespace {

// Of the memory, for states of sequences that have given up their slots.
constexpr size_t kShareOfParked = 4;

}  // namespace

void SessionLedger::AddModel(const ModelCapacity& capacity) {
  models_.push_back({.capacity = capacity, .counts = {}});
}

size_t SessionLedger::StateBytes(const Session& session) const {
  return capacity(session.model).StateBytes(session.turns.position);
}

// --- What is taken.

void SessionLedger::CountPlace(const Session& session, int sign) {
  SessionCounts::PerModel& counts = models_[session.model].counts;
  if (session.is_checkpoint) {
    counts.checkpoints += sign;
    counts.checkpoint_state_bytes += StateBytes(session) * sign;
  } else if (session.slot >= 0) {
    counts.sessions_in_slots += sign;
    counts.state_bytes_in_slots += StateBytes(session) * sign;
  } else if (session.block != nullptr) {
    counts.sessions_in_ram += sign;
  } else {
    counts.sessions_empty += sign;
  }
}

TenantBytes& SessionLedger::BytesOf(const Session& session) {
  return tenants_.At(NumberOf(session.name.tenant));
}

size_t SessionLedger::BytesOnlyInSlot(const Session& session) const {
  return session.slot >= 0 && session.block == nullptr ? StateBytes(session)
                                                       : 0;
}

void SessionLedger::Count(Session* session) {
  SessionCounts::PerModel& counts = models_[session->model].counts;
  CountPlace(*session, 1);
  session->counted_bytes = session->own_bytes();
  counts.own_bytes += session->counted_bytes;
  size_t ram = session->counted_bytes;
  if (session->block != nullptr && ++holders_[session->block.get()] == 1) {
    counts.state_bytes_in_ram += session->block->size();
    ram += session->block->bytes();
  }
  ram_bytes_ += ram;
  // Forks stay within a tenant: who shares a block is of one.
  TenantBytes& own = BytesOf(*session);
  own.ram += ram;
  own.held += ram + BytesOnlyInSlot(*session);
  held_bytes_ += ram + BytesOnlyInSlot(*session);
}

void SessionLedger::Discount(Session* session) {
  SessionCounts::PerModel& counts = models_[session->model].counts;
  CountPlace(*session, -1);
  counts.own_bytes -= session->counted_bytes;
  size_t ram = session->counted_bytes;
  if (session->block != nullptr) {
    const auto holders = holders_.find(session->block.get());
    if (--holders->second == 0) {
      holders_.erase(holders);
      counts.state_bytes_in_ram -= session->block->size();
      ram += session->block->bytes();
    }
  }
  ram_bytes_ -= ram;
  TenantBytes& own = BytesOf(*session);
  own.ram -= ram;
  own.held -= ram + BytesOnlyInSlot(*session);
  held_bytes_ -= ram + BytesOnlyInSlot(*session);
}

size_t SessionLedger::BytesToHold(const StateBlock* block) const {
  return block == nullptr || holders_.contains(block) ? 0 : block->bytes();
}

SessionLedger::Holding SessionLedger::HeldAlone(const Session& session) const {
  size_t ram = session.counted_bytes;
  const auto holders = holders_.find(session.block.get());
  if (holders != holders_.end() && holders->second == 1) {
    ram += session.block->bytes();
  }
  return {.ram = ram, .held = ram + BytesOnlyInSlot(session)};
}

size_t SessionLedger::GrowthTo(const Session& session, int64_t tokens) const {
  const size_t after = capacity(session.model).StateBytes(tokens);
  size_t before = BytesOnlyInSlot(session);
  if (session.block != nullptr) {
    // What forks and checkpoints share stays theirs.
    const auto holders = holders_.find(session.block.get());
    const int64_t own = session.is_new() ? 0 : 1;
    const bool shared = holders != holders_.end() && holders->second > own;
    if (!shared) before = session.block->bytes();
  }
  return after > before ? after - before : 0;
}

// --- What is set apart.

void SessionLedger::Promise(Session* session, size_t bytes) {
  session->promised_bytes = bytes;
  BytesOf(*session).promised += bytes;
}

bool SessionLedger::Reserve(Session* session, size_t kept) {
  const size_t bytes = StateBytes(*session);
  if (bytes > 0 && reserved_bytes_ + bytes + kept > memory_bytes_) return false;
  session->reserved_bytes = bytes;
  reserved_bytes_ += bytes;
  BytesOf(*session).reserved += bytes;
  return true;
}

void SessionLedger::EndReservation(Session* session) {
  reserved_bytes_ -= session->reserved_bytes;
  BytesOf(*session).reserved -= session->reserved_bytes;
  session->reserved_bytes = 0;
  BytesOf(*session).promised -= session->promised_bytes;
  session->promised_bytes = 0;
}

bool SessionLedger::HoldForParked(size_t bytes) {
  if (parked_bytes_ + bytes > memory_bytes_ / kShareOfParked ||
      reserved_bytes_ + bytes > memory_bytes_) {
    return false;
  }
  parked_bytes_ += bytes;
  reserved_bytes_ += bytes;
  ram_bytes_ += bytes;
  return true;
}

void SessionLedger::ReleaseParked(size_t bytes) {
  parked_bytes_ -= bytes;
  reserved_bytes_ -= bytes;
  ram_bytes_ -= bytes;
}

SessionCounts SessionLedger::Counts() const {
  SessionCounts counts;
  for (const Model& model : models_) counts.models.push_back(model.counts);
  counts.ram_bytes = ram_bytes_;
  counts.parked_bytes = parked_bytes_;
  return counts;
}

}  // namespace engram
