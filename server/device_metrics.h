// What models have of devices' memory and of page-locked memory, as metrics.
#pragma once

#include "server/metrics.h"
#include "server/served_model.h"

namespace engram {

// engram_device_memory_bytes by `device` and `kind`, and
// engram_device_memory_limit_bytes; nothing of models on the CPU. The kinds sum
// up to what the process has taken of the device: weights, states, key_values
// and buffers (all that steps need, logits among it), and what is `unused`.
// engram_pinned_memory_bytes by `kind`, and engram_pinned_memory_limit_bytes,
// likewise of the host's: what `steps` send to devices and get back, `states`
// in RAM, and what is `unused`; without a limit it is what was taken at start.
// REQUIRES: all models are loaded; they outlive `metrics`.
void WatchDeviceMemory(const ServedModels& models, Metrics* metrics);

}  // namespace engram
