// Mamba-2: the same block as Mamba's around another scan, written as calls on
// Backend.
//
// Per layer: RMSNorm, one in_proj to a gate z, the scan's x, B and C, and its
// dt; a short causal convolution and SiLU on x, B and C; the scan, in which a
// head of many channels shares one decay and a group of heads one B and C; the
// gate and another RMSNorm; out_proj back onto the residual.
// Source: Mamba-2, arXiv 2405.21060, section 7; names of tensors as in
// state-spaces/mamba and Hugging Face's transformers.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/language_model.h"
#include "model/model.h"
#include "model/model_config.h"
#include "model/weight_loader.h"

namespace engram {

// The layers of a Mamba-2. `backend` must outlive them; `loader` is not needed
// afterwards. Errors as for LoadModel().
absl::StatusOr<std::unique_ptr<LayerStack>> LoadMamba2Layers(
    const ModelConfig& config, const ModelLimits& limits, Backend* backend,
    WeightLoader* loader);

}  // namespace engram
