// SessionCheckpoints: states with a name that never change, from which sessions
// and requests start. Each is kept like a session that has no turns: whoever
// starts from it holds its block of state until its own turn commits.
//
// A checkpoint stays until it is deleted, so its state is reserved, and all of
// them may take half of the session memory. Where there are keys, a tenant has
// its part of that, and of their number, by weight.
//
// Under the session store's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/session_store.h"
#include "server/session_table.h"
#include "server/tenant_budget.h"

namespace engram {

class SessionCheckpoints {
 public:
  // `table` must outlive this.
  SessionCheckpoints(const SessionLimits& limits, SessionTable* table);

  // nullptr if there is none. What other tenants have makes no difference.
  SessionHandle Find(const SessionName& name) const;
  // The same; NOT_FOUND.
  absl::StatusOr<SessionHandle> Get(const SessionName& name) const;
  // The same, and INVALID_ARGUMENT if it is another model's. It is used now.
  absl::StatusOr<SessionHandle> Use(const SessionName& name, int model,
                                    absl::Time now);

  // What a checkpoint takes of what is bounded, until it goes.
  struct Room {
    TenantBudget::Share bytes;
    TenantBudget::Share place;
  };
  // Whether there may be one more. RESOURCE_EXHAUSTED: too many of them, or too
  // many bytes.
  absl::StatusOr<Room> FindRoom(const Session& checkpoint);
  // In place of `old`, which has its name, unless that is null.
  // RESOURCE_EXHAUSTED: its state cannot be reserved. REQUIRES: its bytes are
  // within the memory, and there is no other of its name.
  absl::Status Add(const SessionHandle& checkpoint, Room room,
                   const SessionHandle& old, absl::Time now);
  // NOT_FOUND.
  absl::Status Remove(const SessionName& name);

  // Adds to `page` up to `count` of the tenant and of `model` (-1: of all)
  // behind the id `after`, which goes on to the last one looked at. Stops after
  // some dozens; false if these were the last.
  bool ListSome(const TenantHandle& tenant, int model, size_t count,
                std::string* after, std::vector<SessionInfo>* page) const;

 private:
  // The tenant's number, and the checkpoint's own id.
  using Key = std::pair<int, absl::string_view>;
  struct Entry {
    SessionHandle checkpoint;
    Room room;
  };

  static Key KeyOf(const SessionName& name) {
    return {NumberOf(name.tenant), name.id};
  }

  const SessionLimits limits_;
  SessionTable* const table_;
  TenantBudget bytes_;
  TenantBudget places_;
  absl::btree_map<Key, Entry> by_name_;
};

}  // namespace engram
