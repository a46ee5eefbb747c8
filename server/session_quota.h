// Whether a tenant may have more sessions, or bigger ones: its limits
// `sessions` and `session_bytes`. What it has stays, however low they are set.
//
// Under the session store's lock.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "server/clock.h"
#include "server/session_table.h"

namespace engram {

// What a call may add to the sessions of a tenant.
struct SessionDemand {
  int sessions = 0;
  size_t bytes = 0;  // of all its sessions, wherever their states lie
};

// RESOURCE_EXHAUSTED: the tenant has as many as it may, or would have. It names
// value and limit; RetryAfter() is when the session used least recently
// expires, or half a minute if that is later: they may be deleted.
absl::Status CheckQuota(const SessionTable& table, const TenantHandle& tenant,
                        const SessionDemand& demand, Clock* clock);

}  // namespace engram
