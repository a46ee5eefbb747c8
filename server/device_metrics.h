// What models have of devices' memory, as metrics.
#pragma once

#include "server/metrics.h"
#include "server/served_model.h"

namespace engram {

// engram_device_memory_bytes by `device` and `kind`, and
// engram_device_memory_limit_bytes; nothing of models on the CPU. The kinds sum
// up to what the process has taken of the device: weights, states, key_values
// and buffers (logits among them) as planned, `other` that is in use beyond
// that, for tables, requests and answers, and what is `unused`. REQUIRES: all
// models are loaded; they outlive `metrics`.
void WatchDeviceMemory(const ServedModels& models, Metrics* metrics);

}  // namespace engram
