// LanguageModel: what all families have in common. A step embeds the tokens of
// all rows, runs the family's layers over their residuals, norms them, and
// multiplies those that logits are wanted for by the head.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/memory_plan.h"
#include "model/model.h"
#include "model/model_config.h"
#include "model/state_pool.h"
#include "model/weight_loader.h"

namespace engram {

// What a layer works on in one step.
struct LayerStep {
  Rows rows;
  absl::Span<const RowHistory> histories;  // for attention; else empty
  int64_t tokens = 0;                      // of all rows
  StatePool* states = nullptr;
  Matrix residual;  // [tokens, d_model] in and out
  Matrix normed;    // [tokens, d_model] free for the layer's own use
};

// The layers of one family, with their weights and work buffers. Engine thread
// only, like the model that owns it.
class LayerStack {
 public:
  virtual ~LayerStack() = default;

  // What the layers keep of a sequence, in the order of the state pool.
  virtual std::vector<StateComponent> StateComponents() const = 0;
  // What its attention layers keep of every token; layers 0: it has none.
  virtual KeyValueShape KeyValues() const { return {}; }

  // residual += layer(residual), with the rows' states moved on.
  virtual void RunLayer(int64_t index, const LayerStep& step) = 0;
};

// The model around `layers`. Loads embedding, final norm and head by `loader`,
// which must have loaded the layers already: a tensor that is then left over is
// DATA_LOSS. `known_ids` as for LoadModel(); `backend` must outlive the model.
absl::StatusOr<std::unique_ptr<Model>> LoadLanguageModel(
    const ModelConfig& config, const ModelLimits& limits, int64_t known_ids,
    Backend* backend, WeightLoader* loader, std::unique_ptr<LayerStack> layers);

// What the same would take in memory, but for `buffers`: those are what else
// `backend`, a counting one, was asked for.
absl::StatusOr<MemoryPlan> PlanLanguageModel(const ModelConfig& config,
                                             const ModelLimits& limits,
                                             Backend* backend,
                                             const LayerStack& layers,
                                             WeightLoader* loader);

// "backbone.layers.<layer>.<tensor>"
std::string LayerTensorName(int64_t layer, const char* tensor);

NormWeights RmsNorm(const Buffer& weight, float epsilon);

// A LayerNorm's tensors, `name`.weight and `name`.bias.
struct LayerNorm {
  std::unique_ptr<Buffer> weight;  // [d_model]
  std::unique_ptr<Buffer> bias;    // [d_model]

  NormWeights With(float epsilon) const;
};
absl::StatusOr<LayerNorm> LoadLayerNorm(const std::string& name,
                                        int64_t d_model, WeightLoader* loader);

inline const float* FloatsOrNull(const std::unique_ptr<Buffer>& buffer) {
  return buffer == nullptr ? nullptr : buffer->floats();
}

}  // namespace engram
