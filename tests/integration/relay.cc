#include "tests/integration/relay.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "tests/support/loopback.h"

namespace engram {
namespace {

// So little that a server's answers don't hide in it.
constexpr int kReceiveBytes = 4096;

// What one end has to say, to the other. False at its end.
bool Pass(int from, int to) {
  char bytes[4096];
  const ssize_t count = recv(from, bytes, sizeof(bytes), 0);
  return count > 0 &&
         send(to, bytes, static_cast<size_t>(count), MSG_NOSIGNAL) == count;
}

}  // namespace

Relay::Relay(const std::string& server) : server_(server) {
  int port = 0;
  listener_ = ListenOnLoopback(/*backlog=*/1, &port);
  address_ = absl::StrCat("127.0.0.1:", port);
  stop_ = eventfd(0, 0);
  ENGRAM_CHECK(stop_ >= 0);
  thread_ = std::thread([this] { Run(); });
}

Relay::~Relay() {
  eventfd_write(stop_, 1);
  thread_.join();
  close(listener_);
  close(stop_);
}

void Relay::Hold(bool held) { held_ = held; }

void Relay::Speak() {
  // WINDOW_UPDATE of the connection by one byte.
  const char frame[] = {0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  send(to_server_, frame, sizeof(frame), MSG_NOSIGNAL);
}

bool Relay::BrokenWithin(absl::Duration limit) const {
  pollfd waited = {to_server_, 0, 0};  // for what poll() always tells
  return poll(&waited, 1, static_cast<int>(absl::ToInt64Milliseconds(limit))) >
         0;
}

void Relay::Run() {
  pollfd coming[] = {{listener_, POLLIN, 0}, {stop_, POLLIN, 0}};
  poll(coming, 2, -1);
  if (coming[1].revents != 0) return;
  const int client = accept(listener_, nullptr, nullptr);
  const int server = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(server, SOL_SOCKET, SO_RCVBUF, &kReceiveBytes,
             sizeof(kReceiveBytes));
  const sockaddr_in address = Loopback(PortOf(server_));
  connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  to_server_ = server;
  bool open = true;
  while (open) {
    // Asked again often, since Hold does not wake it.
    constexpr int kIntervalMs = 5;
    pollfd ends[] = {{client, POLLIN, 0},
                     {held_ ? -1 : server, POLLIN, 0},
                     {stop_, POLLIN, 0}};
    poll(ends, 3, kIntervalMs);
    if (ends[2].revents != 0) break;
    if (ends[0].revents != 0) open = Pass(client, server);
    if (open && ends[1].revents != 0) open = Pass(server, client);
  }
  close(client);
  close(server);
}

}  // namespace engram
