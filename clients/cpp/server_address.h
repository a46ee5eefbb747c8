// Addresses of servers as people type them.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace engram::client {

inline constexpr int kDefaultPort = 8001;

// What gRPC takes for `text`: "host", "host:port", "[::1]", "::1:..." without
// brackets if it is a whole IPv6 address, each also after "http://" or
// "grpc://", with port 8001 if none is given; and gRPC's own "unix:PATH",
// "unix-abstract:NAME", "dns:...", "ipv4:..." and "ipv6:...", as they are.
// Errors: INVALID_ARGUMENT with the text and what is wrong with it; TLS
// ("https://") is refused by name.
absl::StatusOr<std::string> ParseServerAddress(absl::string_view text);

// Of such an address: what stands before its port, without brackets.
std::string HostOf(absl::string_view address);

// Whether such an address is this machine's own by what it says: a socket of
// the file system, "localhost" or a number of loopback. A name is not, wherever
// it leads today.
bool IsLoopback(absl::string_view address);

// Whether it is one of gRPC's own, which gRPC reads by itself.
bool HasSchemeOfGrpc(absl::string_view text);

}  // namespace engram::client
