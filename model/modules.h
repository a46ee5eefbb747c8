// The parts that layers are made of, with their weights: Linear, Norm,
// Convolution, Mlp. Each is loaded by the names of its tensors, and tells its
// weights as a block of the back end takes them (kernels/blocks.h).
//
// They own the memory that those point to. Loading fails as WeightLoader does.
// Where a bias is optional, `has_bias` is what the configuration says; if it
// says nothing, the checkpoint decides.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/blocks.h"
#include "model/model_config.h"
#include "model/weight_loader.h"

namespace engram {

// "backbone.layers.<layer>.<tensor>"
std::string LayerTensorName(int64_t layer, const char* tensor);

inline const float* FloatsOrNull(const std::unique_ptr<Buffer>& buffer) {
  return buffer == nullptr ? nullptr : buffer->floats();
}

// A matrix with its bias, if it has one: `name`.weight and `name`.bias.
struct Linear {
  std::unique_ptr<PackedWeight> weight;  // [outputs, inputs]
  std::unique_ptr<Buffer> bias;          // [outputs] or nullptr

  LinearWeights weights() const { return {weight.get(), FloatsOrNull(bias)}; }
};
absl::StatusOr<Linear> LoadLinear(const std::string& name, int64_t outputs,
                                  int64_t inputs, std::optional<bool> has_bias,
                                  WeightLoader* loader);

// Of either kind: `name`.weight and, of a LayerNorm, `name`.bias.
struct Norm {
  NormKind kind = NormKind::kRms;
  float epsilon = 0;
  std::unique_ptr<Buffer> weight;  // [d_model]
  std::unique_ptr<Buffer> bias;    // [d_model], kLayer only

  NormWeights weights() const {
    return {kind, weight->floats(), FloatsOrNull(bias), epsilon};
  }
};
// Of the kind and epsilon that all of a model's norms have.
absl::StatusOr<Norm> LoadNorm(const std::string& name,
                              const ModelConfig& config, WeightLoader* loader);

// A causal convolution of every channel, with its bias, if it has one:
// `name`.weight and `name`.bias. Its state is a window of the last inputs.
struct Convolution {
  int64_t taps = 0;
  std::unique_ptr<Buffer> weight;  // [taps, channels]
  std::unique_ptr<Buffer> bias;    // [channels] or nullptr

  ConvolutionWeights weights() const {
    return {taps, weight->floats(), FloatsOrNull(bias)};
  }
};
absl::StatusOr<Convolution> LoadConvolution(const std::string& name,
                                            int64_t channels, int64_t taps,
                                            std::optional<bool> has_bias,
                                            WeightLoader* loader);

// Two products with a nonlinearity between: `name`.fc1 and `name`.fc2.
//   kGelu   fc2(gelu_tanh(fc1 x)), with biases
//   kGated  fc2(u ⊙ silu(g)) without, where u is the first half of fc1 x and g
//           the second
struct Mlp {
  bool gated = false;
  Linear fc1;  // [config.hidden(), d_model]
  Linear fc2;  // [d_model, config.width]

  MlpBlockArguments Block(const NormWeights& norm) const {
    return {gated, norm, fc1.weights(), fc2.weights()};
  }
};
absl::StatusOr<Mlp> LoadMlp(const std::string& name, const MlpConfig& config,
                            int64_t d_model, WeightLoader* loader);

}  // namespace engram
