// GrpcPort: the gRPC server of a process: its connections, its calls, health,
// reflection, and how it ends without losing what is on its way.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/options.h"
#include "server/standard_call.h"

namespace grpc {
class Server;
class ServerCredentials;
class Service;
namespace experimental {
class ExternalConnectionAcceptor;
}  // namespace experimental
}  // namespace grpc

namespace engram {

class Connections;
class HealthService;
class LiveCalls;

class GrpcPort {
 public:
  // Serves `services`, which outlive this, and the standard ones, whose calls
  // `may_go_on` is asked for. Errors:
  // UNAVAILABLE, the address cannot be had; INVALID_ARGUMENT, --max-connections
  // needs more descriptors than there are.
  static absl::StatusOr<std::unique_ptr<GrpcPort>> Open(
      const ServerOptions& options,
      const std::shared_ptr<grpc::ServerCredentials>& credentials,
      const std::vector<std::unique_ptr<grpc::Service>>& services,
      AskToGoOn may_go_on);
  ~GrpcPort();  // Close at once if that has not been done

  // HOST:PORT in use.
  const std::string& address() const;
  const Connections& connections() const { return *connections_; }

  // Of grpc.health.v1; "" stands for the server.
  void SetHealth(const std::string& service, bool serving);

  // Lets the calls of our services end and waits until their clients have
  // everything, up to `deadline`; then ends what is still there; it is over
  // within a second after `deadline`.
  void Close(absl::Time deadline);

 private:
  GrpcPort() = default;

  absl::Status Listen(const ServerOptions& options);

  std::unique_ptr<Connections> connections_;
  std::unique_ptr<LiveCalls> calls_;
  std::unique_ptr<HealthService> health_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace engram
