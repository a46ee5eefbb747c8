// S4D as a layer's mixer, the baseline of the H3 paper's tables, a block of the
// back end: a diagonal SSM, GELU, a product back onto the residual.
//
// All channels share one A, and B is folded into C.
// Source: S4D, arXiv 2206.11893, section 4; HazyResearch/safari 02220c6.
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
absl::StatusOr<std::unique_ptr<Mixers>> LoadS4dMixers(
    const std::vector<int64_t>& layers, const ModelConfig& config,
    Backend* backend, WeightLoader* loader);

}  // namespace engram
