// The gRPC services: each method translates, calls, maps the status. Reactors
// run on gRPC's own threads, never block and never touch a model.
#pragma once

#include <grpcpp/impl/codegen/service_type.h>

#include <memory>

#include "server/generation_call.h"

namespace engram {

// `around` must outlive the services.
std::unique_ptr<grpc::Service> MakeGenerationService(
    const CallSurroundings& around);
std::unique_ptr<grpc::Service> MakeSessionsService(
    const CallSurroundings& around);
std::unique_ptr<grpc::Service> MakeInspectionService(
    const CallSurroundings& around);
std::unique_ptr<grpc::Service> MakeModelsService(
    const CallSurroundings& around);

}  // namespace engram
