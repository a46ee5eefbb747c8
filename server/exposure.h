// Whether a server may be reached by other machines as it is configured: by
// accident it must not be.
//
// Thread-safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/options.h"

namespace engram {

// What to warn of before the ports of `options` are opened, in one sentence; ""
// if nothing is open that should not be. INVALID_ARGUMENT, with what to do: an
// address stands for nothing, or is not of loopback, and without TLS or without
// keys it takes --insecure.
absl::StatusOr<std::string> CheckExposure(const ServerOptions& options);

}  // namespace engram
