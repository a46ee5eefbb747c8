// Asks a server by the standard protocol, grpc.health.v1, whether it serves.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "clients/cpp/tls_options.h"

namespace engram::client {

// The name of the answer: "SERVING", "NOT_SERVING" (as when it drains),
// "SERVICE_UNKNOWN" or "UNKNOWN". On a new connection. `service` is a model's
// name, or empty for the whole server. Shows no key: health needs none. Errors,
// with EndOf() set: INVALID_ARGUMENT, `server` is no address; NOT_FOUND, there
// is no such model; UNAVAILABLE, DEADLINE_EXCEEDED, it cannot be reached in
// time; UNIMPLEMENTED, it is no server of ours; and those of OpenChannel() and
// ExplainByTls().
absl::StatusOr<std::string> CheckHealth(const std::string& server,
                                        const TlsOptions& tls,
                                        const std::string& service,
                                        absl::Duration deadline);

}  // namespace engram::client
