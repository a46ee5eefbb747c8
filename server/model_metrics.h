// The histograms, counters and gauges of one model.
#pragma once

#include <prometheus/registry.h>

#include <cstdint>
#include <memory>
#include <string>

#include "server/metrics.h"

namespace engram {

// `registry` must outlive them. `device`: what is told of the engine that runs
// the model there is labelled so; empty: it is not. Those of one model share
// the rest. `kv_blocks`: 0 without attention layers.
std::unique_ptr<ModelMetrics> MakeModelMetrics(prometheus::Registry* registry,
                                               const std::string& model,
                                               const std::string& device,
                                               int slots, int64_t kv_blocks);

}  // namespace engram
