// SelfProbe: asks the server's own gRPC port, over a new connection, whether it
// still accepts.
//
// A port that no longer takes connections, while everything that is connected
// goes on, is what nothing inside the process would notice. A gRPC server
// greets each new connection with its settings, so a connection that hears
// nothing tells. With TLS it speaks first, and a server greets whoever says
// hello: for that a probe needs no certificate.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace engram {

// Connects to `address` (HOST:PORT; a host that stands for all addresses is
// reached by loopback), says `hello` and waits for the first bytes.
// UNAVAILABLE: it could not connect; DEADLINE_EXCEEDED: nothing came in time;
// RESOURCE_EXHAUSTED: this process has no descriptor left for the probe itself;
// CANCELLED: `stop` became readable, if it is a descriptor.
absl::Status ProbeGrpc(const std::string& address, absl::Duration timeout,
                       const std::string& hello = "", int stop = -1);

// Owned by Server. Its thread ends with it.
class SelfProbe {
 public:
  struct Options {
    absl::Duration interval = absl::Seconds(10);
    absl::Duration timeout = absl::Seconds(5);
    int failures = 3;  // in a row, before on_failure
    bool tls = false;  // whether the port speaks it
    // Whether new connections wait for a good reason just now: then a failure
    // says nothing. Asked on the probe's thread; may be empty.
    std::function<bool()> excuse;
  };

  // `on_failure` is called once at most, on the probe's thread, with the last
  // failure.
  SelfProbe(std::string address, const Options& options,
            std::function<void(const absl::Status&)> on_failure);
  ~SelfProbe();

 private:
  void Run();

  const std::string address_;
  const Options options_;
  const std::function<void(const absl::Status&)> on_failure_;
  const int stop_;  // an eventfd: readable when the probe is to end

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace engram
