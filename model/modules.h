// The parts that layers are made of, with their weights: Linear, Norm,
// Convolution, Mlp. Each is loaded by the names of its tensors and written as
// calls on Backend.
//
// Engine thread only, like the model that owns them. Loading fails as
// WeightLoader does. Where a bias is optional, `has_bias` is what the
// configuration says; if it says nothing, the checkpoint decides.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/model.h"
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

  // y = activation(x Wᵀ + bias).
  //   x  [tokens, inputs] in
  //   y  [tokens, outputs] out
  void Run(Backend* backend, int64_t tokens, ConstMatrix x, Matrix y,
           Activation activation = Activation::kNone) const;
  // y += x Wᵀ + bias.
  void AddTo(Backend* backend, int64_t tokens, ConstMatrix x, Matrix y) const;
};
absl::StatusOr<Linear> LoadLinear(const std::string& name, int64_t outputs,
                                  int64_t inputs, std::optional<bool> has_bias,
                                  WeightLoader* loader);

// Of either kind: `name`.weight and, of a LayerNorm, `name`.bias.
struct Norm {
  NormKind kind = NormKind::kRms;
  float epsilon = 0;
  int64_t width = 0;
  std::unique_ptr<Buffer> weight;  // [width]
  std::unique_ptr<Buffer> bias;    // [width], kLayer only

  //   x       [tokens, width] in
  //   normed  [tokens, width] out
  void Run(Backend* backend, int64_t tokens, const float* x,
           float* normed) const;
};
// Of the kind and epsilon that all of a model's norms have.
absl::StatusOr<Norm> LoadNorm(const std::string& name,
                              const ModelConfig& config, WeightLoader* loader);

// A causal convolution of every channel, with its bias, if it has one:
// `name`.weight and `name`.bias. Its state is a window of the last inputs.
struct Convolution {
  int64_t channels = 0;
  int64_t taps = 0;
  std::unique_ptr<Buffer> weight;  // [taps, channels]
  std::unique_ptr<Buffer> bias;    // [channels] or nullptr

  //   x      [tokens, channels] in
  //   state  [taps - 1, channels] of each slot, in and out
  //   y      [tokens, channels] out, not x
  void Run(Backend* backend, const StepRows& rows, ConstMatrix x,
           LayerShares state, Matrix y,
           Activation activation = Activation::kSilu) const;
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
  MlpConfig config;
  Linear fc1;  // [config.hidden(), d_model]
  Linear fc2;  // [d_model, config.width]

  // residual += mlp(x).
  //   x         [tokens, d_model] in
  //   hidden    [tokens, config.hidden()] for its own use
  //   residual  [tokens, d_model] in and out
  void AddTo(Backend* backend, int64_t tokens, ConstMatrix x, Matrix hidden,
             Matrix residual) const;
};
absl::StatusOr<Mlp> LoadMlp(const std::string& name, const MlpConfig& config,
                            int64_t d_model, WeightLoader* loader);

// Activations of one layer after the other, for the most tokens that a step can
// have.
class Activations {
 public:
  static absl::StatusOr<Activations> Allocate(int64_t width,
                                              const ModelLimits& limits,
                                              Backend* backend);

  // [tokens, width]
  Matrix matrix() const { return Columns(0); }
  // The same from one column on.
  Matrix Columns(int64_t first) const {
    return {buffer_->floats() + first, width_};
  }

 private:
  Activations(int64_t width, std::unique_ptr<Buffer> buffer)
      : width_(width), buffer_(std::move(buffer)) {}

  int64_t width_;
  std::unique_ptr<Buffer> buffer_;
};

}  // namespace engram
