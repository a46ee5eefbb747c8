// Softmax attention as a layer's mixer, of hybrids and of the baseline that has
// nothing else, a block of the back end: one product to q, k and v, if the
// model has it a short causal convolution over all of them, attention over all
// the sequence's tokens so far, a product back onto the residual.
//
// What it keeps of a sequence grows with every token: keys and values in blocks
// of the pool (model/key_value_pool.h).
// Source: HazyResearch/flash-attention 33e0860, as H3 uses it; with grouped
// heads and the convolution state-spaces/mamba e9594ce, modules/mha.py.
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
absl::StatusOr<std::unique_ptr<Mixers>> LoadAttentionMixers(
    const std::vector<int64_t>& layers, const ModelConfig& config,
    Backend* backend, WeightLoader* loader);

}  // namespace engram
