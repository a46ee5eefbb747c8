#include "clients/cpp/health_check.h"

#include <grpcpp/client_context.h>

#include "absl/time/clock.h"
#include "clients/cpp/call_end.h"
#include "clients/cpp/channel.h"
#include "clients/cpp/server_address.h"
#include "clients/cpp/tls_mismatch.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tools/status/early_return.h"

namespace engram::client {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

absl::StatusOr<std::string> CheckHealth(const std::string& server,
                                        const TlsOptions& tls,
                                        const std::string& service,
                                        absl::Duration deadline) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string address,
                          ParseServerAddress(server));
  ENGRAM_ASSIGN_OR_RETURN(
      const auto channel,
      OpenChannel(address, tls, /*caller=*/{}, /*own_connection=*/true));
  grpc::ClientContext context;
  if (deadline != absl::InfiniteDuration()) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  }
  HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  ENGRAM_RETURN_IF_ERROR(ExplainByTls(
      ToStatus(Health::NewStub(channel)->Check(&context, request, &response),
               context),
      address, tls));
  const std::string& name =
      HealthCheckResponse::ServingStatus_Name(response.status());
  return name.empty() ? "UNKNOWN" : name;
}

}  // namespace engram::client
