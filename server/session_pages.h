// What users are told of sessions: of one, or of a page of them in order of id.
//
// Under the session store's lock.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "server/session_store.h"
#include "server/session_table.h"

namespace engram {

SessionInfo DescribeSession(const SessionTable& table, const Session& session);

// Adds to `page` up to `count` sessions of the tenant and of `model` (-1: of
// all) behind the id `after`, which goes on to the last one looked at. Stops
// after some dozens; false if these were the last.
bool ListSomeSessions(const SessionTable& table, const TenantHandle& tenant,
                      int model, size_t count, std::string* after,
                      std::vector<SessionInfo>* page);

}  // namespace engram
