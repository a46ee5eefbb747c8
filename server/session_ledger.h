// SessionLedger: what the sessions of all models take of RAM, down to the byte,
// and what is set apart for states that must not be lost.
//
// A block of state that several sessions hold is counted once. States behind
// turns that have begun, wherever they lie, and those of sequences that have
// given up their slots are reserved: there is always room for them.
//
// Under the session store's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/btree_map.h"
#include "server/by_tenant.h"
#include "server/model_capacity.h"
#include "server/session_store.h"
#include "server/state_block.h"

namespace engram {

// What the sessions of one tenant take.
struct TenantBytes {
  size_t ram = 0;
  // The same with the states that lie in slots and have no copy in RAM: what is
  // moved between the two does not change it.
  size_t held = 0;
  // That turns which have begun may add to `held`.
  size_t promised = 0;
  // Set apart for the states behind those turns.
  size_t reserved = 0;
};

class SessionLedger {
 public:
  // Of so many bytes in all.
  explicit SessionLedger(size_t memory_bytes) : memory_bytes_(memory_bytes) {}

  // Models are numbered from 0.
  void AddModel(const ModelCapacity& capacity);
  const ModelCapacity& capacity(int model) const {
    return models_[model].capacity;
  }
  // Of the session's state, wherever it lies.
  size_t StateBytes(const Session& session) const;

  // Adds the session, as a holder of its block too, to what is counted, or
  // takes it away. Its fields must not change between the two.
  void Count(Session* session);
  void Discount(Session* session);

  // What it takes of RAM that one more session holds `block`; 0 of nullptr.
  size_t BytesToHold(const StateBlock* block) const;
  // What is free when the session is gone: of RAM, and of what its tenant
  // holds.
  struct Holding {
    size_t ram = 0;
    size_t held = 0;
  };
  Holding HeldAlone(const Session& session) const;
  // Of the tenant of that number.
  const TenantBytes& bytes_of(int tenant) const { return tenants_.Get(tenant); }
  // Whether states of all sessions fit beside what is reserved, and so many
  // bytes more.
  bool IsRoomy(size_t bytes) const {
    return reserved_bytes_ + held_bytes_ + bytes <= memory_bytes_;
  }
  size_t memory_bytes() const { return memory_bytes_; }
  // How much more the session's tenant holds when it has `tokens`, its other
  // fields apart.
  size_t GrowthTo(const Session& session, int64_t tokens) const;
  // The session's turn may add so many to what its tenant holds.
  void Promise(Session* session, size_t bytes);

  // Whether so many bytes more are within the memory, and ever could be.
  bool Fits(size_t bytes) const { return ram_bytes_ + bytes <= memory_bytes_; }
  bool CouldFit(size_t bytes) const { return bytes <= memory_bytes_; }

  // Sets RAM apart for the state behind the session's turn, and leaves `kept`
  // of it. False if all is reserved already.
  bool Reserve(Session* session, size_t kept = 0);
  // And what was promised.
  void EndReservation(Session* session);
  // The same for the state of a sequence without a slot; all of these may take
  // a quarter of the memory. They are counted as taken.
  bool HoldForParked(size_t bytes);
  void ReleaseParked(size_t bytes);

  // What happens to the sessions of a model is counted by the store.
  SessionCounts::PerModel& counts(int model) { return models_[model].counts; }
  // But for the departed.
  SessionCounts Counts() const;

 private:
  struct Model {
    ModelCapacity capacity;
    SessionCounts::PerModel counts;
  };

  void CountPlace(const Session& session, int sign);
  // Of its tenant.
  TenantBytes& BytesOf(const Session& session);
  // Of the state in the session's slot, if there is no copy of it.
  size_t BytesOnlyInSlot(const Session& session) const;

  const size_t memory_bytes_;
  std::vector<Model> models_;
  // How many sessions hold a block.
  absl::btree_map<const StateBlock*, int64_t> holders_;
  ByTenant<TenantBytes> tenants_;
  size_t held_bytes_ = 0;  // by all tenants
  size_t ram_bytes_ = 0;
  size_t parked_bytes_ = 0;
  size_t reserved_bytes_ = 0;
};

}  // namespace engram
