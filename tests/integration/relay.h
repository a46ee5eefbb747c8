// Relay: one connection to a server through which a test can hold back what the
// server sends, as a client does that is too busy to read.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <string>
#include <thread>

#include "absl/time/time.h"

namespace engram {

class Relay {
 public:
  // To `server`, 127.0.0.1:PORT. Aborts if there are no sockets to be had.
  explicit Relay(const std::string& server);
  ~Relay();

  // Where a client connects to.
  const std::string& address() const { return address_; }

  // From now on what the server sends stays in its kernel, or goes on. What the
  // client sends is always passed on.
  void Hold(bool held);
  // Says something harmless to the server in the client's name (that it may
  // send a byte more). REQUIRES: the client is silent.
  void Speak();
  // Whether the server breaks the connection within this time, although it is
  // held.
  bool BrokenWithin(absl::Duration limit) const;

 private:
  void Run();

  std::string address_;
  std::string server_;
  int listener_ = -1;
  int stop_ = -1;
  std::atomic<int> to_server_ = -1;
  std::atomic<bool> held_ = false;
  std::thread thread_;
};

}  // namespace engram
