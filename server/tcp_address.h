// What the ports and the probe need to know of an address HOST:PORT: its parts,
// what it resolves to, and sockets that listen there.
//
// Thread-safe.
#pragma once

#include <netdb.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace engram {

struct TcpAddress {
  std::string host;  // of IPv6 without brackets
  std::string port;
};

// "localhost:1", "127.0.0.1:1", "[::1]:1". REQUIRES: a colon.
TcpAddress SplitAddress(const std::string& address);
// The same address with another port.
std::string WithPort(const std::string& address, uint16_t port);

// All that a name stands for, the preferred one first.
using ResolvedAddresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;
// `flags` are those of getaddrinfo(). NOT_FOUND, in the system's words.
absl::StatusOr<ResolvedAddresses> Resolve(const TcpAddress& address,
                                          int flags = 0);

// Whether no other machine reaches what listens there: all that the host stands
// for is loopback. Errors are those of Resolve().
absl::StatusOr<bool> IsLoopback(const TcpAddress& address);

// A socket that listens there, not waited for by accept(); on the unspecified
// address of IPv6 for IPv4 too. -1, with errno, if there is none to be had.
int ListenOn(const addrinfo& address);

// The port that a socket is bound to.
uint16_t PortOf(int descriptor);

}  // namespace engram
