// LanguageModel: what all families have in common. A step embeds the tokens of
// all rows, runs the layers (model/block_stack.h) over their residuals, norms
// them, multiplies those that an outcome is wanted of by the head, and has the
// back end find the outcomes of the logits.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/memory_plan.h"
#include "model/model.h"
#include "model/model_config.h"
#include "model/weight_loader.h"

namespace engram {

// `loader` is not needed afterwards: a tensor that is left over then is
// DATA_LOSS. `known_ids` as for LoadModel(); `backend` must outlive the model.
absl::StatusOr<std::unique_ptr<Model>> LoadLanguageModel(
    const ModelConfig& config, const ModelLimits& limits, int64_t known_ids,
    Backend* backend, WeightLoader* loader);

// What the same would take of what `backend`, a counting one, is like; but for
// what that counts itself.
absl::StatusOr<MemoryPlan> PlanLanguageModel(const ModelConfig& config,
                                             const ModelLimits& limits,
                                             Backend* backend,
                                             WeightLoader* loader);

}  // namespace engram
