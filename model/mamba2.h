// Mamba-2's mixer: Mamba's around another scan, a block of the back end.
//
// One in_proj to a gate z, the scan's x, B and C, and its dt; a short causal
// convolution and SiLU on x, B and C; the scan, in which a head of many
// channels shares one decay and a group of heads one B and C; the gate and an
// RMSNorm; out_proj back onto the residual.
// Source: Mamba-2, arXiv 2405.21060, section 7; names of tensors as in
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
absl::StatusOr<std::unique_ptr<Mixers>> LoadMamba2Mixers(
    const std::vector<int64_t>& layers, const ModelConfig& config,
    Backend* backend, WeightLoader* loader);

}  // namespace engram
