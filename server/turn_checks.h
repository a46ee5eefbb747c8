// Whether a session may run a turn: what a request must agree with, in the
// order in which it is told.
//
// Under the session store's lock.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "server/model_capacity.h"
#include "server/request.h"
#include "server/session_store.h"

namespace engram {

// The record of a request that has committed, nullptr for one that may run.
// Errors and their order: SessionStore::BeginTurn, from the request_id on and
// without room. `digest` is ShortDigest of the request_id.
absl::StatusOr<std::shared_ptr<const TurnRecord>> CheckTurnOf(
    const Session& session, const Request& request, uint64_t digest,
    const ModelCapacity& capacity, const SessionLimits& limits);

}  // namespace engram
