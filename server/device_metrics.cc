#include "server/device_metrics.h"

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace engram {
namespace {

// The models of one device.
struct DeviceModels {
  const Backend* backend = nullptr;  // of one of them: all tell the same
  MemoryPlan planned;
};

std::map<int, DeviceModels> ByDevice(const ServedModels& models) {
  std::map<int, DeviceModels> devices;
  for (const auto& model : models.all()) {
    for (const ServedDevice& served : model->devices) {
      if (!served.backend->device_memory().limit.has_value()) continue;
      DeviceModels& device = devices[served.index];
      device.backend = served.backend.get();
      device.planned.weights += model->memory.weights;
      device.planned.states += model->memory.states;
      device.planned.key_values += model->memory.key_values;
      device.planned.pinned += model->memory.pinned;
    }
  }
  return devices;
}

// By `kind`, beside the labels.
class KindsWatch {
 public:
  KindsWatch(std::string name, std::string help, MetricLabels labels,
             Metrics* metrics)
      : name_(std::move(name)),
        help_(std::move(help)),
        labels_(std::move(labels)),
        metrics_(*metrics) {}

  void Add(const char* kind, std::function<size_t()> bytes) {
    MetricLabels labels = labels_;
    labels.emplace_back("kind", kind);
    metrics_.WatchGauge(
        name_, help_,
        [bytes = std::move(bytes)] { return static_cast<double>(bytes()); },
        std::move(labels));
  }
  void Add(const char* kind, size_t bytes) {
    Add(kind, [bytes] { return bytes; });
  }

 private:
  const std::string name_;
  const std::string help_;
  const MetricLabels labels_;
  Metrics& metrics_;
};

void WatchDevice(int number, const DeviceModels& device, Metrics* metrics) {
  const MetricLabels labels = {{"device", absl::StrCat(number)}};
  const Backend* const backend = device.backend;
  const MemoryPlan& planned = device.planned;
  KindsWatch kinds("device_memory_bytes",
                   "Memory taken of a device, by what it is for.", labels,
                   metrics);
  kinds.Add("weights", planned.weights);
  kinds.Add("states", planned.states);
  kinds.Add("key_values", planned.key_values);
  const size_t others = planned.weights + planned.states + planned.key_values;
  kinds.Add("buffers", [=] { return backend->device_memory().used - others; });
  kinds.Add("unused", [=] {
    const MemoryUse use = backend->device_memory();
    return use.taken - use.used;
  });
  metrics->WatchGauge(
      "device_memory_limit_bytes",
      "The most that models may take of a device's memory.",
      [=] { return static_cast<double>(*backend->device_memory().limit); },
      labels);
}

// `steps`: what they have of it.
void WatchPinned(const Backend* backend, size_t steps, Metrics* metrics) {
  KindsWatch kinds("pinned_memory_bytes",
                   "Page-locked memory of the host, by what it is for.", {},
                   metrics);
  kinds.Add("steps", steps);
  kinds.Add("states", [=] { return backend->pinned_memory()->used - steps; });
  kinds.Add("unused", [=] {
    const MemoryUse use = *backend->pinned_memory();
    return use.taken - use.used;
  });
  metrics->WatchGauge(
      "pinned_memory_limit_bytes",
      "The most that models may pin of the host's memory.", [=] {
        const MemoryUse use = *backend->pinned_memory();
        return static_cast<double>(use.limit.value_or(use.taken));
      });
}

}  // namespace

void WatchDeviceMemory(const ServedModels& models, Metrics* metrics) {
  const std::map<int, DeviceModels> devices = ByDevice(models);
  if (devices.empty()) return;
  size_t steps = 0;
  for (const auto& [number, device] : devices) {
    WatchDevice(number, device, metrics);
    steps += device.planned.pinned;
  }
  WatchPinned(devices.begin()->second.backend, steps, metrics);
}

}  // namespace engram
