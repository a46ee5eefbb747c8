#include "server/connections.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/status.h"
#include "server/clock.h"
#include "server/process_usage.h"

namespace engram {
namespace {

// For the metrics port, files, probes, and connections that gRPC has yet to
// close.
constexpr int64_t kOtherDescriptors = 96;

// Before we ask again for a descriptor when there was none.
constexpr absl::Duration kRetry = absl::Milliseconds(50);

// Bytes of answers that the kernel may hold before it sends them: what a client
// does not read is to wait in its stream, where it is counted.
constexpr int kUnsentBytes = 128 << 10;

// After this long without an answer from its machine a client is gone.
constexpr int kUserTimeoutMs = 20'000;

// What epoll tells of those that are no connection; their ids begin at 1.
constexpr uint64_t kListener = 0;
constexpr uint64_t kWaker = ~uint64_t{0};

// In the form of NormalizePeer; what is neither IPv4 nor IPv6 has no name.
// Of a connection that is at its end. A socket that is closed with something
// unread is reset, and its last answers with it.
void DropReceived(int descriptor) {
  char dropped[4096];
  while (recv(descriptor, dropped, sizeof(dropped), MSG_DONTWAIT) > 0) {
  }
}

std::string PeerName(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
    return absl::StrCat("ipv4:", text, ":", ntohs(v4.sin_port));
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
  if (address.ss_family != AF_INET6) return "";
  if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
    inet_ntop(AF_INET, &v6.sin6_addr.s6_addr[12], text, sizeof(text));
    return absl::StrCat("ipv4:", text, ":", ntohs(v6.sin6_port));
  }
  inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
  return absl::StrCat("ipv6:[", text, "]:", ntohs(v6.sin6_port));
}

void SetOption(int descriptor, int level, int name, int value) {
  setsockopt(descriptor, level, name, &value, sizeof(value));
}

void SetPort(sockaddr* address, uint16_t port) {
  if (address->sa_family == AF_INET) {
    reinterpret_cast<sockaddr_in*>(address)->sin_port = htons(port);
  } else {
    reinterpret_cast<sockaddr_in6*>(address)->sin6_port = htons(port);
  }
}

// Whether the kernel has bytes that the client's has not confirmed.
bool HasUnsent(int descriptor) {
  int bytes = 0;
  return ioctl(descriptor, SIOCOUTQ, &bytes) == 0 && bytes > 0;
}

}  // namespace

void RaiseDescriptorLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

int64_t ConnectionsThatFit() {
  const ProcessUsage usage = ReadProcessUsage();
  return std::max<int64_t>(
      1,
      (usage.max_descriptors - usage.open_descriptors - kOtherDescriptors) / 2);
}

std::string NormalizePeer(absl::string_view peer) {
  return absl::StrReplaceAll(peer, {{"%5B", "["}, {"%5D", "]"}, {"%25", "%"}});
}

absl::StatusOr<std::unique_ptr<Connections>> Connections::Listen(
    const std::string& address, const Options& options) {
  std::unique_ptr<Connections> connections(new Connections(options));
  ENGRAM_RETURN_IF_ERROR(connections->Open(address));
  return connections;
}

Connections::Connections(const Options& options)
    : options_(options),
      events_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Connections::~Connections() {
  Stop();
  absl::MutexLock lock(&mutex_);
  for (const auto& [id, connection] : connections_) {
    close(connection.descriptor);
  }
  for (int listener : listeners_) close(listener);
  if (events_ >= 0) close(events_);
  if (wake_ >= 0) close(wake_);
}

absl::Status Connections::Open(const std::string& address) {
  const auto failure = [&](absl::string_view why) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve gRPC on ", address, ": ", why,
                     "; choose another --grpc-address"));
  };
  if (events_ < 0 || wake_ < 0) return failure(strerror(errno));
  const TcpAddress split = SplitAddress(address);
  // One socket takes all of the machine's addresses, of IPv4 and IPv6.
  const bool of_ipv4 = split.host == "0.0.0.0";
  absl::Status status = ListenOnAll({of_ipv4 ? "::" : split.host, split.port});
  if (!status.ok() && of_ipv4 && !absl::IsAlreadyExists(status)) {
    status = ListenOnAll(split);  // a machine without IPv6
  }
  if (!status.ok()) return failure(status.message());
  address_ = WithPort(address, PortOf(listeners_.front()));
  return absl::OkStatus();
}

absl::Status Connections::ListenOnAll(const TcpAddress& address) {
  ENGRAM_ASSIGN_OR_RETURN(const ResolvedAddresses found,
                          Resolve(address, AI_NUMERICSERV | AI_PASSIVE));
  int error = 0;
  for (addrinfo* one = found.get(); one != nullptr; one = one->ai_next) {
    // All with the port of the first, if it was picked.
    if (!listeners_.empty()) SetPort(one->ai_addr, PortOf(listeners_.front()));
    const int listener = ListenOn(*one);
    if (listener >= 0) {
      listeners_.push_back(listener);
      continue;
    }
    error = errno;
    // Clients would find another server at one of the host's addresses.
    if (error == EADDRINUSE) return absl::AlreadyExistsError(strerror(error));
  }
  return listeners_.empty() ? absl::UnavailableError(strerror(error))
                            : absl::OkStatus();
}

void Connections::Start(std::function<void(int)> serve) {
  serve_ = std::move(serve);
  for (int listener : listeners_) {
    epoll_event event = {EPOLLIN, {.u64 = kListener}};
    epoll_ctl(events_, EPOLL_CTL_ADD, listener, &event);
  }
  epoll_event event = {EPOLLIN, {.u64 = kWaker}};
  epoll_ctl(events_, EPOLL_CTL_ADD, wake_, &event);
  thread_ = std::thread([this] { Run(); });
}

void Connections::Stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  Wake();
  thread_.join();
  for (int listener : listeners_) close(listener);
  listeners_.clear();
}

void Connections::Run() {
  absl::Time next_try = absl::InfinitePast();
  while (!stopping_) {
    const absl::Time now = RealClock()->Now();
    if (next_try <= now) next_try = AcceptAll();
    const bool waits = next_try != absl::InfinitePast();
    Listening(!waits);
    int timeout_ms = -1;
    if (waits && next_try != absl::InfiniteFuture()) {
      // Rounded up, or the last millisecond would be spent asking.
      timeout_ms = static_cast<int>(
          absl::ToInt64Milliseconds(next_try - RealClock()->Now()) + 1);
      timeout_ms = std::max(timeout_ms, 0);
    }
    HandleEvents(timeout_ms);
    // Whatever woke us may have made room.
    if (full_) next_try = absl::InfinitePast();
  }
}

void Connections::HandleEvents(int timeout_ms) {
  epoll_event events[64];
  const int count = epoll_wait(events_, events, 64, timeout_ms);
  for (int i = 0; i < count; ++i) {
    const uint64_t id = events[i].data.u64;
    if (id == kListener) continue;  // AcceptAll is next
    if (id == kWaker) {
      eventfd_t value = 0;
      eventfd_read(wake_, &value);
      continue;
    }
    absl::MutexLock lock(&mutex_);
    Forget(id);
  }
}

// Listening sockets tell of what waits only while it can be accepted.
void Connections::Listening(bool listening) {
  for (int listener : listeners_) {
    epoll_event event = {listening ? uint32_t{EPOLLIN} : 0, {.u64 = kListener}};
    epoll_ctl(events_, EPOLL_CTL_MOD, listener, &event);
  }
}

absl::Time Connections::AcceptAll() {
  full_ = false;
  for (int listener : listeners_) {
    while (true) {
      const absl::Time now = RealClock()->Now();
      // Asked first, so that nobody is closed for a connection that is not
      // there.
      pollfd waiting = {listener, POLLIN, 0};
      if (poll(&waiting, 1, 0) <= 0) break;
      if (!MakeRoom(now)) {
        full_ = true;
        return NextGraceEnd();
      }
      const int descriptor =
          accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (descriptor >= 0) {
        if (!Take(descriptor, now)) return now + kRetry;
      } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
                 errno == ENOMEM) {
        absl::MutexLock lock(&mutex_);
        CloseIdle(now, options_.grace);
        return now + kRetry;
      }
      // Else it has gone again.
    }
  }
  return absl::InfinitePast();
}

bool Connections::MakeRoom(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(connections_.size()) < options_.limit ||
         CloseIdle(now, options_.grace);
}

bool Connections::CloseIdle(absl::Time now, absl::Duration grace) {
  if (idle_.empty()) return false;
  const uint64_t id = idle_.front();
  const Connection& connection = connections_.at(id);
  if (now - connection.idle_since < grace) return false;
  // Whoever serves it reads its end and closes it too.
  shutdown(connection.descriptor, SHUT_RDWR);
  ++closed_for_room_;
  Forget(id);
  return true;
}

bool Connections::Take(int descriptor, absl::Time now) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  const int second = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
  if (second < 0 ||
      getpeername(descriptor, reinterpret_cast<sockaddr*>(&address), &size) !=
          0) {
    const bool has_gone = second >= 0;
    if (has_gone) close(second);
    close(descriptor);
    return has_gone;
  }
  SetOption(descriptor, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMs);
  SetOption(descriptor, IPPROTO_TCP, TCP_NOTSENT_LOWAT, kUnsentBytes);
  {
    absl::MutexLock lock(&mutex_);
    const uint64_t id = ++last_id_;
    Connection& connection = connections_[id];
    connection.descriptor = second;
    connection.peer = PeerName(address);
    connection.idle_since = now;
    connection.place_in_idle = idle_.insert(idle_.end(), id);
    by_peer_[connection.peer] = id;
    // Only its end is told, and once.
    epoll_event event = {EPOLLET, {.u64 = id}};
    epoll_ctl(events_, EPOLL_CTL_ADD, second, &event);
  }
  serve_(descriptor);
  return true;
}

void Connections::Forget(uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  const Connection& connection = found->second;
  if (connection.calls == 0) idle_.erase(connection.place_in_idle);
  const auto peer = by_peer_.find(connection.peer);
  if (peer != by_peer_.end() && peer->second == id) by_peer_.erase(peer);
  // By itself, since the other descriptor may still be open.
  epoll_ctl(events_, EPOLL_CTL_DEL, connection.descriptor, nullptr);
  DropReceived(connection.descriptor);
  close(connection.descriptor);
  connections_.erase(found);
}

absl::Time Connections::NextGraceEnd() const {
  absl::MutexLock lock(&mutex_);
  if (idle_.empty()) return absl::InfiniteFuture();
  return connections_.at(idle_.front()).idle_since + options_.grace;
}

void Connections::CallBegan(absl::string_view peer) {
  absl::MutexLock lock(&mutex_);
  const auto found = by_peer_.find(NormalizePeer(peer));
  if (found == by_peer_.end()) return;
  Connection& connection = connections_.at(found->second);
  if (connection.calls++ == 0) idle_.erase(connection.place_in_idle);
}

void Connections::CallEnded(absl::string_view peer) {
  {
    absl::MutexLock lock(&mutex_);
    const auto found = by_peer_.find(NormalizePeer(peer));
    if (found == by_peer_.end()) return;
    Connection& connection = connections_.at(found->second);
    if (connection.calls == 0 || --connection.calls > 0) return;
    connection.idle_since = RealClock()->Now();
    connection.place_in_idle = idle_.insert(idle_.end(), found->second);
  }
  if (full_) Wake();
}

int64_t Connections::open() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(connections_.size());
}

int64_t Connections::closed_for_room() const {
  absl::MutexLock lock(&mutex_);
  return closed_for_room_;
}

bool Connections::AwaitSent(absl::Time deadline) const {
  const auto is_sent = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::none_of(
        connections_.begin(), connections_.end(),
        [](const auto& entry) { return HasUnsent(entry.second.descriptor); });
  };
  absl::MutexLock lock(&mutex_);
  // The kernel tells nobody; so it is asked.
  constexpr absl::Duration kInterval = absl::Milliseconds(5);
  const auto never = [] { return false; };
  while (!is_sent()) {
    const absl::Duration left = deadline - RealClock()->Now();
    if (left <= absl::ZeroDuration()) return false;
    mutex_.AwaitWithTimeout(absl::Condition(&never), std::min(left, kInterval));
  }
  return true;
}

void Connections::BreakUnsent() {
  absl::MutexLock lock(&mutex_);
  for (const auto& [id, connection] : connections_) {
    if (HasUnsent(connection.descriptor)) {
      shutdown(connection.descriptor, SHUT_RDWR);
    }
  }
}

void Connections::Wake() { eventfd_write(wake_, 1); }

}  // namespace engram
