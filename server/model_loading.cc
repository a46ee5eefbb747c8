#include "server/model_loading.h"

#include <algorithm>
#include <cstdint>
#include <new>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/load_model.h"

namespace engram {
namespace {

ModelLimits LimitsOf(const ServerOptions& options) {
  ModelLimits limits;
  limits.slots = static_cast<int>(options.slots);
  limits.max_batch_tokens = static_cast<int>(options.max_batch_tokens);
  limits.max_logits_rows = static_cast<int>(
      std::min(options.slots + 64, options.max_batch_tokens + 1));
  limits.kv_bytes = static_cast<size_t>(options.kv_memory);
  limits.weight_format = options.weights;
  return limits;
}

// Of a device all that the model needs, at once: what is not to be had is known
// before weights are read. Little of it is ever on the host, which has files in
// its cache and page-locked memory for requests and answers.
absl::Status TakeRoom(const MemoryPlan& plan, const ModelLimits& limits,
                      Backend* backend) {
  if (!backend->device_memory().limit.has_value()) {
    return CheckRoom(plan, limits, FindMemoryRoom());
  }
  const absl::Status status = backend->ReserveMemory(plan.need());
  if (!absl::IsResourceExhausted(status)) return status;
  return absl::ResourceExhaustedError(absl::StrCat("the model takes ",
                                                   DescribeMemory(plan, limits),
                                                   "; ", status.message()));
}

std::vector<int> DevicesFor(const ServerOptions& options) {
  if (!options.devices.empty()) return options.devices;
  // Where there is none, MakeBackend says why.
  std::vector<int> all(CountDevices(options.backend).value_or(1));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// Loads the model on one device more.
absl::Status AddDevice(int index, const ServerOptions& options,
                       std::shared_ptr<cpu::ThreadPool> pool,
                       const ModelFolder& folder, ServedModel* served) {
  BackendOptions backend;
  backend.kind = options.backend;
  backend.threads = static_cast<int>(options.threads);
  backend.pool = std::move(pool);
  backend.device.index = index;
  backend.device.deterministic = options.deterministic;
  backend.device.memory = options.device_memory;
  backend.device.pinned_memory = options.pinned_memory;
  backend.on_no_device = [served](const absl::Status& reason) {
    served->no_device = std::string(reason.message());
  };
  ServedDevice device;
  device.index = index;
  ENGRAM_ASSIGN_OR_RETURN(device.backend, MakeBackend(backend));
  const ModelLimits limits = LimitsOf(options);
  ENGRAM_ASSIGN_OR_RETURN(served->memory, folder.Plan(*device.backend, limits));
  ENGRAM_RETURN_IF_ERROR(
      TakeRoom(served->memory, limits, device.backend.get()));
  if (served->devices.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(LoadedModel loaded,
                            folder.Load(device.backend.get(), limits));
    device.model = std::move(loaded.model);
    // Alike for all.
    served->tokenizer = std::move(loaded.tokenizer);
    served->eos_token_ids = std::move(loaded.eos_token_ids);
    served->warnings = std::move(loaded.warnings);
  } else {
    const Tokenizer* const tokenizer = served->tokenizer.get();
    ENGRAM_ASSIGN_OR_RETURN(
        device.model,
        folder.LoadModel(device.backend.get(), limits,
                         tokenizer == nullptr ? 0 : tokenizer->ids()));
  }
  ENGRAM_RETURN_IF_ERROR(device.model->WarmUp());
  served->devices.push_back(std::move(device));
  return absl::OkStatus();
}

absl::Status Load(const std::string& folder, const ServerOptions& options,
                  std::shared_ptr<cpu::ThreadPool> pool, ServedModel* served) {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<ModelFolder> opened,
                          ModelFolder::Open(folder));
  for (const int index : DevicesFor(options)) {
    ENGRAM_RETURN_IF_ERROR(AddDevice(index, options, pool, *opened, served));
    // A CPU is one device, whatever it was taken for.
    if (served->devices.back().backend->name() == "cpu") break;
  }
  served->layout = StateLayout(
      served->devices.front().model->states().components(), served->info());
  return absl::OkStatus();
}

}  // namespace

absl::Status CompleteMemory(const ServedModels& models,
                            const ServerOptions& options) {
  std::vector<Backend*> backends;
  size_t slots = 0;
  for (const auto& model : models.all()) {
    for (const ServedDevice& device : model->devices) {
      if (!device.backend->pinned_memory().has_value()) continue;
      backends.push_back(device.backend.get());
      slots = AddSizes(
          slots, AddSizes(model->memory.states, model->memory.key_values));
    }
  }
  if (backends.empty()) return absl::OkStatus();
  const size_t taken = backends.front()->pinned_memory()->taken;
  const auto most = static_cast<size_t>(options.pinned_memory);
  const size_t states =
      most == 0 ? std::min(slots, static_cast<size_t>(options.session_memory))
                : std::max(most, taken) - taken;
  ENGRAM_RETURN_IF_ERROR(
      backends.front()->ReserveMemory({.device = 0, .pinned = states}));
  for (Backend* const backend : backends) backend->CloseMemory();
  return absl::OkStatus();
}

std::string DescribeMemory(const MemoryPlan& plan, const ModelLimits& limits) {
  std::string text = absl::StrCat(
      plan.total(), " bytes: ", plan.weights, " of weights (--weights), ",
      plan.states, " of states in ", limits.slots, " slots (--slots), ",
      plan.buffers, " of buffers for steps of ", limits.max_batch_tokens,
      " tokens (--max-batch-tokens), ", plan.logits, " of logits in ",
      limits.max_logits_rows, " rows (--slots, --max-batch-tokens)");
  if (plan.key_values > 0) {
    absl::StrAppend(&text, ", ", plan.key_values,
                    " of keys and values (--kv-memory)");
  }
  if (plan.pinned > 0) {
    absl::StrAppend(&text, "; and ", plan.pinned,
                    " bytes of page-locked memory (--pinned-memory)");
  }
  return text;
}

absl::Status CheckRoom(const MemoryPlan& plan, const ModelLimits& limits,
                       const MemoryRoom& room) {
  if (plan.total() <= room.bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the model takes ", DescribeMemory(plan, limits), "; ",
                   room.limit, " leaves ", room.bytes));
}

absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(
    const std::string& name, const std::string& folder,
    const ServerOptions& options, std::shared_ptr<cpu::ThreadPool> pool) {
  auto served = std::make_unique<ServedModel>();
  served->name = name;
  try {
    ENGRAM_RETURN_IF_ERROR(
        Load(folder, options, std::move(pool), served.get()));
    return served;
  } catch (const std::bad_alloc&) {
    // Thrown by the standard library: there is room by the limits, but it is
    // taken by others or in pieces.
    const MemoryRoom room = FindMemoryRoom();
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for what the model takes, ",
                     DescribeMemory(served->memory, LimitsOf(options)), "; ",
                     room.limit, " leaves ", room.bytes));
  }
}

}  // namespace engram
