// HttpConnection: a client's side of one connection to an HTTP port, for tests
// that behave well and for tests that do not.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace engram {

class HttpConnection {
 public:
  // To HOST:PORT, a port of loopback. It may end in nothing: see connected().
  explicit HttpConnection(const std::string& address);
  ~HttpConnection();
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  bool connected() const { return connected_; }
  // Whether all of it was taken.
  bool Send(absl::string_view bytes);
  // What comes until the other side closes; waits for that for no longer than
  // two minutes.
  std::string ReadAll();

 private:
  int descriptor_ = -1;
  bool connected_ = false;
};

struct HttpAnswer {
  int status = 0;  // 0: none
  std::string head;
  std::string body;
};

// Asks for `path` on a connection of its own. `headers` are lines, each with
// its end.
HttpAnswer AskHttp(const std::string& address, const std::string& method,
                   const std::string& path, const std::string& headers = "");

}  // namespace engram
