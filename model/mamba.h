// Mamba's mixer: selective state-space layers, a block of the back end each.
//
// in_proj to x and a gate z, a short causal convolution and SiLU on x, x_proj
// and dt_proj to the scan's dt, B and C, the selective scan with its gate,
// out_proj back onto the residual. No positions: all it knows of the past is a
// state of fixed size.
// Source: Mamba, arXiv 2312.00752, section 3.4; names of tensors as in
// state-spaces/mamba and Hugging Face's transformers.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/mixer.h"
#include "model/model_config.h"
#include "model/weight_loader.h"

namespace engram {

// See LoadMixers().
absl::StatusOr<std::unique_ptr<Mixers>> LoadMambaMixers(
    const std::vector<int64_t>& layers, const ModelConfig& config,
    Backend* backend, WeightLoader* loader);

}  // namespace engram
