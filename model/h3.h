// H3's mixer, a block of the back end: three products q, k and v; a shift SSM
// on k, times v; a diagonal SSM on that, times q; a product back onto the
// residual.
//
// The shift SSM's state matrix only moves inputs along, so that its B and C
// come together to a causal filter over the last inputs, and those inputs are
// its state. The diagonal SSM's B is folded into what reads its state. Source:
// H3, arXiv 2212.14052, section 3; names of tensors as in HazyResearch/H3
// 5c4d06b.
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
absl::StatusOr<std::unique_ptr<Mixers>> LoadH3Mixers(
    const std::vector<int64_t>& layers, const ModelConfig& config,
    Backend* backend, WeightLoader* loader);

}  // namespace engram
