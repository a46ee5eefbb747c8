#include "clients/cpp/health_check.h"

#include <grpcpp/client_context.h>

#include "absl/time/clock.h"
#include "clients/cpp/call_end.h"
#include "clients/cpp/channel.h"
#include "clients/cpp/server_address.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace engram {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

absl::StatusOr<std::string> CheckHealth(const std::string& server,
                                        const std::string& service,
                                        absl::Duration deadline) {
  absl::StatusOr<std::string> address = ParseServerAddress(server);
  if (!address.ok()) return address.status();
  grpc::ClientContext context;
  if (deadline != absl::InfiniteDuration()) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  }
  HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  const absl::Status status =
      ToStatus(Health::NewStub(OpenChannel(*address, /*own_connection=*/true))
                   ->Check(&context, request, &response),
               context);
  if (!status.ok()) return status;
  const std::string& name =
      HealthCheckResponse::ServingStatus_Name(response.status());
  return name.empty() ? "UNKNOWN" : name;
}

}  // namespace engram
