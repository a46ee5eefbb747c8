// Sockets of this machine's own, for tests that speak to a port without gRPC.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {

inline sockaddr_in Loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

// Of HOST:PORT; aborts if it has none.
inline int PortOf(const std::string& address) {
  int port = 0;
  ENGRAM_CHECK(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
  return port;
}

// A socket that listens on a free port, which comes to `*port`. Aborts if there
// is none to be had.
inline int ListenOnLoopback(int backlog, int* port) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ENGRAM_CHECK(listener >= 0);
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  ENGRAM_CHECK(bind(listener, reinterpret_cast<sockaddr*>(&address), size) ==
               0);
  ENGRAM_CHECK(listen(listener, backlog) == 0);
  ENGRAM_CHECK(
      getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  *port = ntohs(address.sin_port);
  return listener;
}

}  // namespace engram
