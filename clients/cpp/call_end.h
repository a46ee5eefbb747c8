// How far a call came before it failed: what to advise depends on it, and the
// code alone does not tell. UNAVAILABLE is said by a server whose queue is full
// as well as by a client that found no server.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "clients/cpp/client.h"

namespace engram::client {

// The status of a call that ended, with EndOf() set, and RetryAfter()
// (tools/status/retry_after.h) if the server said when to come again.
absl::Status ToStatus(const grpc::Status& status,
                      const grpc::ClientContext& context);

// `status`, which is not OK, with this end.
absl::Status WithEnd(CallEnd end, absl::Status status);

// `status` with the end that `like` had.
absl::Status WithEndOf(const absl::Status& like, absl::Status status);

}  // namespace engram::client
