// The gRPC services: each method translates, calls, maps the status. Reactors
// run on gRPC's own threads, never block and never touch a model.
#pragma once

#include <grpcpp/impl/codegen/service_type.h>

#include <memory>

#include "server/options.h"
#include "server/served_model.h"
#include "server/stop_signal.h"
#include "server/text_threads.h"

namespace engram {

// All pointers must outlive the services.
std::unique_ptr<grpc::Service> MakeGenerationService(
    const ServedModels* models, const ServerOptions* options,
    TextThreads* texts, StopSignal* stop);
std::unique_ptr<grpc::Service> MakeSessionsService(
    const ServedModels* models, const ServerOptions* options);
std::unique_ptr<grpc::Service> MakeModelsService(const ServedModels* models,
                                                 TextThreads* texts);

}  // namespace engram
