// HttpPort: the HTTP port beside gRPC, where Prometheus scrapes and
// orchestrators probe; plain, or by TLS.
//
// One thread serves all connections by events, so that a client who says
// nothing, speaks slowly or does not read costs a descriptor and nobody's time.
// Every answer ends its connection. Beyond `connections` the oldest is closed
// for the newest: who asks at once is served, however many stay silent.
//
// Thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace engram {

class TlsIdentity;

// What a client asks with, besides the path.
struct HttpRequest {
  std::optional<std::string> authorization;  // that header
  // The names in the certificate that the client showed, if there is one.
  std::function<std::vector<std::string>()> certificate_names;
};

// What one path answers.
struct HttpPage {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

class HttpPort {
 public:
  struct Options {
    int connections = 64;
    // Of a connection on which nothing moves; whole seconds.
    absl::Duration idle_timeout = absl::Seconds(5);
    // What each new connection is secured with; it outlives the port. Null: by
    // nothing.
    const TlsIdentity* identity = nullptr;
  };
  // By path. Asked for at every GET and HEAD, on the one thread of the port:
  // they must not wait for anything.
  using Pages =
      std::map<std::string, std::function<HttpPage(const HttpRequest&)>>;

  // Serves `pages` on `address` (HOST:PORT, port 0 picks a free one); other
  // paths are 404, other methods 405. UNAVAILABLE if the address cannot be had.
  static absl::StatusOr<std::unique_ptr<HttpPort>> Open(
      const std::string& address, const Options& options, Pages pages);

  // Closes all connections, whatever is going on there. No page is asked for
  // afterwards.
  virtual ~HttpPort() = default;

  // HOST:PORT in use.
  virtual const std::string& address() const = 0;
};

}  // namespace engram
