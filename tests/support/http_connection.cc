#include "tests/support/http_connection.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "tests/support/loopback.h"

namespace engram {

HttpConnection::HttpConnection(const std::string& address)
    : descriptor_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  const sockaddr_in target = Loopback(PortOf(address));
  const timeval limit = {120, 0};
  setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  connected_ = connect(descriptor_, reinterpret_cast<const sockaddr*>(&target),
                       sizeof(target)) == 0;
}

HttpConnection::~HttpConnection() { close(descriptor_); }

bool HttpConnection::Send(absl::string_view bytes) {
  return send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(bytes.size());
}

std::string HttpConnection::ReadAll() {
  std::string received;
  char buffer[16384];
  while (true) {
    const ssize_t bytes = recv(descriptor_, buffer, sizeof(buffer), 0);
    // A process that was stopped and goes on, as under scripts/stress.
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) return received;
    received.append(buffer, static_cast<size_t>(bytes));
  }
}

HttpAnswer AskHttp(const std::string& address, const std::string& method,
                   const std::string& path, const std::string& headers) {
  HttpConnection connection(address);
  HttpAnswer answer;
  if (!connection.connected() ||
      !connection.Send(absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: ",
                                    address, "\r\n", headers, "\r\n"))) {
    return answer;
  }
  const std::string all = connection.ReadAll();
  const size_t end_of_head = all.find("\r\n\r\n");
  if (end_of_head == std::string::npos) return answer;
  answer.head = all.substr(0, end_of_head + 2);
  answer.body = all.substr(end_of_head + 4);
  // After "HTTP/1.1 ".
  answer.status = atoi(answer.head.c_str() + 9);
  return answer;
}

}  // namespace engram
