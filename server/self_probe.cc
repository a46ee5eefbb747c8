#include "server/self_probe.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/tcp_address.h"
#include "tools/tls/client_hello.h"

namespace engram {
namespace {

// Closes its descriptor.
class Socket {
 public:
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  ~Socket() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int descriptor() const { return descriptor_; }

 private:
  const int descriptor_;
};

absl::Status Failure(absl::StatusCode code, const std::string& address,
                     absl::string_view what) {
  return absl::Status(code, absl::StrCat("probe of ", address, ": ", what));
}

absl::Status SystemFailure(const std::string& address, const char* call) {
  const absl::StatusCode code = errno == EMFILE || errno == ENFILE
                                    ? absl::StatusCode::kResourceExhausted
                                    : absl::StatusCode::kUnavailable;
  return Failure(code, address, absl::StrCat(call, ": ", strerror(errno)));
}

// By loopback, where a host stands for all addresses.
TcpAddress Reachable(TcpAddress address) {
  if (address.host == "0.0.0.0") address.host = "127.0.0.1";
  if (address.host == "::") address.host = "::1";
  return address;
}

absl::Status WaitFor(const Socket& socket, short events, int stop,
                     const std::string& address, absl::Duration timeout,
                     absl::string_view what) {
  // poll() passes over a negative descriptor.
  pollfd waited[] = {{socket.descriptor(), events, 0}, {stop, POLLIN, 0}};
  const int ready = poll(waited, 2, int(absl::ToInt64Milliseconds(timeout)));
  if (waited[1].revents != 0) {
    return Failure(absl::StatusCode::kCancelled, address, "stopped");
  }
  if (ready > 0) return absl::OkStatus();
  if (ready < 0) return SystemFailure(address, "poll");
  return Failure(absl::StatusCode::kDeadlineExceeded, address,
                 absl::StrCat(what, " within ", absl::FormatDuration(timeout)));
}

}  // namespace

absl::Status ProbeGrpc(const std::string& address, absl::Duration timeout,
                       const std::string& hello, int stop) {
  const auto resolved = Resolve(Reachable(SplitAddress(address)));
  if (!resolved.ok()) {
    return Failure(absl::StatusCode::kUnavailable, address,
                   resolved.status().message());
  }
  const addrinfo* const found = resolved->get();
  const Socket socket(::socket(found->ai_family,
                               SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (socket.descriptor() < 0) return SystemFailure(address, "socket");
  if (connect(socket.descriptor(), found->ai_addr, found->ai_addrlen) != 0 &&
      errno != EINPROGRESS) {
    return SystemFailure(address, "connect");
  }
  absl::Status status =
      WaitFor(socket, POLLOUT, stop, address, timeout, "no connection");
  if (!status.ok()) return status;
  // A fresh connection has room for it.
  if (send(socket.descriptor(), hello.data(), hello.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(hello.size())) {
    return SystemFailure(address, "send");
  }
  status = WaitFor(socket, POLLIN, stop, address, timeout, "no greeting");
  if (!status.ok()) return status;
  char byte;
  if (recv(socket.descriptor(), &byte, 1, 0) != 1) {
    return Failure(absl::StatusCode::kUnavailable, address,
                   "the connection was closed");
  }
  return absl::OkStatus();
}

SelfProbe::SelfProbe(std::string address, const Options& options,
                     std::function<void(const absl::Status&)> on_failure)
    : address_(std::move(address)),
      options_(options),
      on_failure_(std::move(on_failure)),
      stop_(eventfd(0, EFD_CLOEXEC)),
      thread_([this] { Run(); }) {}

SelfProbe::~SelfProbe() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  eventfd_write(stop_, 1);
  thread_.join();
  close(stop_);
}

void SelfProbe::Run() {
  int failures = 0;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_),
                                  options_.interval)) {
        return;
      }
    }
    const absl::Status status =
        ProbeGrpc(address_, options_.timeout,
                  options_.tls ? MakeClientHello() : "", stop_);
    if (absl::IsCancelled(status)) return;
    if (!status.ok() && options_.excuse && options_.excuse()) continue;
    failures = status.ok() ? 0 : failures + 1;
    if (failures == options_.failures) return on_failure_(status);
  }
}

}  // namespace engram
