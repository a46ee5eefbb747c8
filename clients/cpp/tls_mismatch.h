// Why TLS keeps a client and a server apart, in words: gRPC says of most of it
// no more than that the connection was closed.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "clients/cpp/tls_options.h"

namespace engram::client {

// FAILED_PRECONDITION, with what may be done, if somebody listens at `address`
// (as ParseServerAddress() gives it) but one of both speaks TLS and the other
// does not, or one does not take the other's certificate. OK if there is
// nothing of the kind. Connects anew, and waits some seconds at most.
absl::Status FindTlsMismatch(const std::string& address, const TlsOptions& tls);

}  // namespace engram::client
