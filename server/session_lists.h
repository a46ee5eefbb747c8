// SessionLists: which sessions there are where, each list least recently used
// first, so that whoever is to leave, move or expire is found at once. What
// leaves for good is looked for tenant by tenant, slots are all tenants' alike.
//
// Under the session store's lock.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/by_tenant.h"
#include "server/session_store.h"

namespace engram {

class SessionLists {
 public:
  // Models are numbered from 0, and the devices of each. REQUIRES: no session
  // is listed.
  void AddModel(int devices = 1);

  // Where a session is listed follows from its fields, which must not change
  // between the two.
  void Enlist(Session* session);
  void Unlist(Session* session);

  // The first of a kind of the tenant of that number, but none that is `keep`;
  // nullptr if there is none. Without a running turn:
  Session* IdleInRam(int tenant, const Session* keep) const;
  Session* IdleInSlot(int tenant, const Session* keep) const;  // of any model
  Session* Idle(int tenant) const;                             // of both
  // Running or not:
  Session* WithLongAnswer(int tenant, const Session* keep) const;
  Session* WithSlotCopy(int tenant, const Session* keep) const;
  // One of `model` that has a slot of `device`, but none of `but`, idle ones
  // first, whosever.
  Session* InSlot(int model, int device = 0,
                  absl::Span<const int> but = {}) const;
  // One that is to expire at `now` or before, and when it was.
  std::pair<Session*, absl::Time> Expired(absl::Time now) const;

 private:
  struct InSlots {
    SessionsByUse idle;
    SessionsByUse running;
  };

  struct OfTenant {
    SessionsByUse idle_in_ram;
    SessionsByUse idle_in_slots;  // which are in in_slots_ too
    SessionsByUse long_answers;
    SessionsByUse slot_copies;
  };

  std::vector<std::vector<InSlots>> in_slots_;  // per model and device
  ByTenant<OfTenant> tenants_;                  // sessions point into it
  // Idle ones.
  absl::btree_map<std::pair<absl::Time, int64_t>, Session*> expiries_;
};

}  // namespace engram
