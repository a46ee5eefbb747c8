// From a folder (model/load_model.h) to a served model: room, back end,
// weights.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/memory_plan.h"
#include "server/memory_room.h"
#include "server/options.h"
#include "server/served_model.h"

namespace engram {

// Loads `folder` to be served as `name`; what is odd about it is in `warnings`.
// Errors: those of ModelFolder and MakeBackend.
// RESOURCE_EXHAUSTED: there is not enough memory, which is told by arithmetic
// before any is taken, with the flags that change what is needed.
// `pool`: the threads to compute on; nullptr: options.threads of its own.
absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(
    const std::string& name, const std::string& folder,
    const ServerOptions& options,
    std::shared_ptr<cpu::ThreadPool> pool = nullptr);

// Takes what --pinned-memory leaves for states in RAM, if any model is on a
// device that needs it; from then on no memory is taken of devices, nor pinned.
// To be called when all models are loaded. RESOURCE_EXHAUSTED if the system
// does not give it.
absl::Status CompleteMemory(const ServedModels& models,
                            const ServerOptions& options);

// "1200 bytes: 1000 of weights (--weights), ...", with the flags.
std::string DescribeMemory(const MemoryPlan& plan, const ModelLimits& limits);

// RESOURCE_EXHAUSTED if the plan needs more than the room.
absl::Status CheckRoom(const MemoryPlan& plan, const ModelLimits& limits,
                       const MemoryRoom& room);

}  // namespace engram
