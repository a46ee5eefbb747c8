// Mixers: what mixes tokens in the layers of H3 and of the baselines in its
// skeleton (model/mixer_stack.h has the skeleton). One object holds the mixers
// of one kind, over all the layers that have it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/language_model.h"
#include "model/weight_loader.h"

namespace engram {

// Engine thread only, like the model that owns it.
class Mixers {
 public:
  virtual ~Mixers() = default;

  // What they keep of a sequence, in the order of the state pool. Only one kind
  // of a model has components.
  virtual std::vector<StateComponent> StateComponents() const = 0;
  // What they keep of every token; layers 0: nothing.
  virtual KeyValueShape KeyValues() const { return {}; }

  // residual += mixer(normed), with the rows' states moved on. `index` counts
  // the layers of this kind.
  virtual void Run(int64_t index, const LayerStep& step) = 0;
};

// A matrix with its bias, `name`.weight and `name`.bias.
struct Linear {
  std::unique_ptr<PackedWeight> weight;  // [outputs, inputs]
  std::unique_ptr<Buffer> bias;          // [outputs]

  // Options of MatMul with the bias.
  MatMulOptions Options(Activation activation = Activation::kNone,
                        bool accumulate = false) const;
};
absl::StatusOr<Linear> LoadLinear(const std::string& name, int64_t outputs,
                                  int64_t inputs, WeightLoader* loader);

}  // namespace engram
