// Connections: accepts connections on an address, hands each to whoever serves
// it, and keeps their number below a limit.
//
// gRPC accepts by itself too, but without a limit, and Debian's stops for ever
// once descriptors run out. Here the longest idle connection without a call is
// closed when a new one needs its place; if all have calls, new ones wait in
// the kernel's queue until one ends. Of each connection a second descriptor is
// kept: by it we see that it was closed, and can close it.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/tcp_address.h"

namespace engram {

// Raises the process's limit of descriptors as far as it may.
void RaiseDescriptorLimit();

// How many connections leave descriptors for all else, at two for each; from
// what is in use now.
int64_t ConnectionsThatFit();

// An address as gRPC writes it ("ipv6:%5B::1%5D:80"), in the form in which
// Connections compares them ("ipv6:[::1]:80").
std::string NormalizePeer(absl::string_view peer);

class Connections {
 public:
  struct Options {
    int64_t limit = 1024;
    // How long a connection without a call is left alone before another may
    // have its place: what comes needs some time to make its first call.
    absl::Duration grace = absl::Milliseconds(200);
  };

  // Takes `address` (HOST:PORT, port 0 picks a free one; every address of the
  // host; a host of zeros stands for all of the machine's, of IPv4 and IPv6).
  // Errors: UNAVAILABLE.
  static absl::StatusOr<std::unique_ptr<Connections>> Listen(
      const std::string& address, const Options& options);
  ~Connections();

  // HOST:PORT in use.
  const std::string& address() const { return address_; }

  // From now on connections are accepted. `serve` owns what it is given and is
  // called on a thread of this.
  void Start(std::function<void(int descriptor)> serve);
  // Stops accepting; what is open stays as it is.
  void Stop();

  // A call begins or ends on the connection from `peer`.
  void CallBegan(absl::string_view peer);
  void CallEnded(absl::string_view peer);

  // Whether new connections wait because all that there may be have calls.
  bool full() const { return full_; }
  int64_t open() const;
  // Closed while idle, for another's sake.
  int64_t closed_for_room() const;
  // Waits until the kernels of all clients have what was sent to them.
  // False at `deadline`.
  bool AwaitSent(absl::Time deadline) const;
  // Breaks those whose clients have not fetched what was sent: whoever serves
  // them would wait for that.
  void BreakUnsent();

 private:
  struct Connection {
    int descriptor = -1;
    std::string peer;
    int calls = 0;
    absl::Time idle_since;
    std::list<uint64_t>::iterator place_in_idle;  // while there are no calls
  };

  explicit Connections(const Options& options);

  absl::Status Open(const std::string& address);
  // On every address of the host. Errors: ALREADY_EXISTS, one is in use.
  absl::Status ListenOnAll(const TcpAddress& address);
  void Run();
  void HandleEvents(int timeout_ms);
  // Until none is left or none is let in. Returns when to try again.
  absl::Time AcceptAll();
  // Whether there is a place for one more, which may be made.
  bool MakeRoom(absl::Time now);
  bool CloseIdle(absl::Time now, absl::Duration grace)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // False if descriptors ran out.
  bool Take(int descriptor, absl::Time now);
  void Forget(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Time NextGraceEnd() const;
  void Listening(bool listening);
  void Wake();

  const Options options_;
  std::string address_;
  int events_ = -1;  // of epoll
  int wake_ = -1;    // an eventfd
  std::vector<int> listeners_;
  std::function<void(int)> serve_;
  std::atomic<bool> full_ = false;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;

  mutable absl::Mutex mutex_;
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint64_t, Connection> connections_
      ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, uint64_t> by_peer_ ABSL_GUARDED_BY(mutex_);
  // Without calls, the longest idle first.
  std::list<uint64_t> idle_ ABSL_GUARDED_BY(mutex_);
  int64_t closed_for_room_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace engram
