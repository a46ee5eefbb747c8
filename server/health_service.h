// HealthService: grpc.health.v1.Health, for orchestrators, proxies and clients.
// It is ours and not the one inside gRPC, which reflection cannot tell.
//
// Thread-safe.
#pragma once

#include <grpcpp/impl/codegen/service_type.h>

#include <memory>
#include <string>

namespace engram {

class HealthService {
 public:
  static std::unique_ptr<HealthService> Create();

  // REQUIRES: gRPC's server has ended all calls.
  virtual ~HealthService() = default;

  // Of the server ("") or of a model: those who watch are told.
  virtual void Set(const std::string& name, bool serving) = 0;

  // To be registered; lives as long as this.
  virtual grpc::Service* service() = 0;
};

}  // namespace engram
