// Why TLS keeps a client and a server apart, in words: gRPC says of most of it
// no more than that the connection was closed.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "clients/cpp/tls_options.h"

namespace engram::client {

// What a call to `address` (as ParseServerAddress() gives it) ended with, or
// what is more to the point: FAILED_PRECONDITION, with what may be done, if it
// was not answered since one of both speaks TLS and the other does not, or one
// does not take the other's certificate. To find that out it connects anew, and
// waits some seconds at most.
absl::Status ExplainByTls(const absl::Status& status,
                          const std::string& address, const TlsOptions& tls);

}  // namespace engram::client
