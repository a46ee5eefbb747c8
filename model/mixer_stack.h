// The skeleton that H3 and the baselines beside it share, written as calls on
// Backend. Per layer: LayerNorm, a mixer of tokens, and, if the model has them,
// another LayerNorm and an MLP with GELU; each adds to the residual.
//
// A layer's mixer is H3's (model/h3.h), S4D's (model/s4d.h) or softmax
// attention (model/attention.h); a hybrid H3 has attention in some of its
// layers. Source: H3, arXiv 2212.14052, figure 1; names of tensors as in
// HazyResearch/H3 5c4d06b.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/language_model.h"
#include "model/model.h"
#include "model/model_config.h"
#include "model/weight_loader.h"

namespace engram {

// The layers of a model with ModelConfig::has_mixer_stack(). `backend` must
// outlive them; `loader` is not needed afterwards. Errors as for LoadModel().
absl::StatusOr<std::unique_ptr<LayerStack>> LoadMixerStack(
    const ModelConfig& config, const ModelLimits& limits, Backend* backend,
    WeightLoader* loader);

}  // namespace engram
