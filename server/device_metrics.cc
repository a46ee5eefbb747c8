#include "server/device_metrics.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace engram {
namespace {

constexpr char kName[] = "device_memory_bytes";
constexpr char kHelp[] = "Memory taken of a device, by what it is for.";

// The models of one device.
struct DeviceModels {
  const Backend* backend = nullptr;  // of one of them: all tell the same
  MemoryPlan planned;
};

std::map<int, DeviceModels> ByDevice(const ServedModels& models) {
  std::map<int, DeviceModels> devices;
  for (const auto& model : models.all()) {
    for (const ServedDevice& served : model->devices) {
      const std::optional<DeviceMemoryUse> use =
          served.backend->device_memory();
      if (!use.has_value()) continue;
      DeviceModels& device = devices[use->device];
      device.backend = served.backend.get();
      device.planned.weights += model->memory.weights;
      device.planned.states += model->memory.states;
      device.planned.key_values += model->memory.key_values;
      device.planned.buffers += model->memory.buffers;
      device.planned.logits += model->memory.logits;
    }
  }
  return devices;
}

}  // namespace

void WatchDeviceMemory(const ServedModels& models, Metrics* metrics) {
  for (const auto& [number, device] : ByDevice(models)) {
    const std::string label = absl::StrCat(number);
    const MemoryPlan& planned = device.planned;
    const auto watch = [&](const char* kind, std::function<double()> value) {
      metrics->WatchGauge(kName, kHelp, std::move(value),
                          {{"device", label}, {"kind", kind}});
    };
    for (const auto& [kind, bytes] :
         {std::pair("weights", planned.weights),
          std::pair("states", planned.states),
          std::pair("key_values", planned.key_values),
          std::pair("buffers", planned.buffers + planned.logits)}) {
      watch(kind, [bytes] { return static_cast<double>(bytes); });
    }
    // Less than planned is used where a model is smaller than it was thought.
    watch("other", [backend = device.backend, total = planned.total()] {
      const size_t used = backend->device_memory()->used;
      return static_cast<double>(std::max(used, total) - total);
    });
    watch("unused", [backend = device.backend, total = planned.total()] {
      const DeviceMemoryUse use = *backend->device_memory();
      const size_t used = std::max(use.used, total);
      return static_cast<double>(std::max(use.taken, used) - used);
    });
    metrics->WatchGauge(
        "device_memory_limit_bytes",
        "The most that models may take of a device's memory.",
        [backend = device.backend] {
          return static_cast<double>(backend->device_memory()->limit);
        },
        {{"device", label}});
  }
}

}  // namespace engram
