// Mamba: a stack of selective state-space blocks, written as calls on Backend.
//
// Per layer: RMSNorm, in_proj to x and a gate z, a short causal convolution and
// SiLU on x, x_proj and dt_proj to the scan's dt, B and C, the selective scan
// with its gate, out_proj back onto the residual. No attention, no positions:
// all it knows of the past is a state of fixed size.
// Source: Mamba, arXiv 2312.00752, section 3.4; names of tensors as in
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

// The layers of a Mamba. `backend` must outlive them; `loader` is not needed
// afterwards. Errors as for LoadModel().
absl::StatusOr<std::unique_ptr<LayerStack>> LoadMambaLayers(
    const ModelConfig& config, const ModelLimits& limits, Backend* backend,
    WeightLoader* loader);

}  // namespace engram
