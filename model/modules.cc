#include "model/modules.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {

std::string LayerTensorName(int64_t layer, const char* tensor) {
  return absl::StrCat("backbone.layers.", layer, ".", tensor);
}

void Linear::Run(Backend* backend, int64_t tokens, ConstMatrix x, Matrix y,
                 Activation activation) const {
  MatMulOptions options;
  options.bias = FloatsOrNull(bias);
  options.activation = activation;
  backend->MatMul(*weight, tokens, x, options, y);
}

void Linear::AddTo(Backend* backend, int64_t tokens, ConstMatrix x,
                   Matrix y) const {
  MatMulOptions options;
  options.bias = FloatsOrNull(bias);
  options.accumulate = true;
  backend->MatMul(*weight, tokens, x, options, y);
}

absl::StatusOr<Linear> LoadLinear(const std::string& name, int64_t outputs,
                                  int64_t inputs, std::optional<bool> has_bias,
                                  WeightLoader* loader) {
  Linear linear;
  ENGRAM_ASSIGN_OR_RETURN(linear.weight,
                          loader->Matrix(name + ".weight", outputs, inputs));
  ENGRAM_ASSIGN_OR_RETURN(
      linear.bias, loader->OptionalVector(name + ".bias", {outputs}, has_bias));
  return linear;
}

void Norm::Run(Backend* backend, int64_t tokens, const float* x,
               float* normed) const {
  backend->Norm({kind, weight->floats(), FloatsOrNull(bias), epsilon}, tokens,
                width, x, normed);
}

absl::StatusOr<Norm> LoadNorm(const std::string& name,
                              const ModelConfig& config, WeightLoader* loader) {
  Norm norm;
  norm.kind = config.norm;
  norm.epsilon = config.norm_epsilon;
  norm.width = config.d_model;
  ENGRAM_ASSIGN_OR_RETURN(norm.weight,
                          loader->Vector(name + ".weight", {norm.width}));
  if (norm.kind == NormKind::kLayer) {
    ENGRAM_ASSIGN_OR_RETURN(norm.bias,
                            loader->Vector(name + ".bias", {norm.width}));
  }
  return norm;
}

void Convolution::Run(Backend* backend, const StepRows& rows, ConstMatrix x,
                      LayerShares state, Matrix y,
                      Activation activation) const {
  CausalConv1dArguments arguments;
  arguments.channels = channels;
  arguments.d_conv = taps;
  arguments.x = x;
  arguments.weight = weight->floats();
  arguments.bias = FloatsOrNull(bias);
  arguments.activation = activation;
  arguments.conv_state = state;
  arguments.y = y;
  backend->CausalConv1d(rows, arguments);
}

absl::StatusOr<Convolution> LoadConvolution(const std::string& name,
                                            int64_t channels, int64_t taps,
                                            std::optional<bool> has_bias,
                                            WeightLoader* loader) {
  Convolution convolution;
  convolution.channels = channels;
  convolution.taps = taps;
  ENGRAM_ASSIGN_OR_RETURN(
      convolution.weight,
      loader->Convolution(name + ".weight", channels, taps));
  ENGRAM_ASSIGN_OR_RETURN(
      convolution.bias,
      loader->OptionalVector(name + ".bias", {channels}, has_bias));
  return convolution;
}

void Mlp::AddTo(Backend* backend, int64_t tokens, ConstMatrix x, Matrix hidden,
                Matrix residual) const {
  if (config.kind == MlpKind::kGated) {
    fc1.Run(backend, tokens, x, hidden);
    // Without weights it is the product with the gate.
    GatedNormArguments gate;
    gate.tokens = tokens;
    gate.d_inner = config.width;
    gate.y = hidden;
    gate.z = {hidden.data + config.width, hidden.stride};
    gate.normed = hidden;
    backend->GatedNorm(gate);
  } else {
    fc1.Run(backend, tokens, x, hidden, Activation::kGeluTanh);
  }
  fc2.AddTo(backend, tokens, hidden, residual);
}

absl::StatusOr<Mlp> LoadMlp(const std::string& name, const MlpConfig& config,
                            int64_t d_model, WeightLoader* loader) {
  const bool has_bias = config.kind == MlpKind::kGelu;
  Mlp mlp;
  mlp.config = config;
  ENGRAM_ASSIGN_OR_RETURN(mlp.fc1, LoadLinear(name + ".fc1", config.hidden(),
                                              d_model, has_bias, loader));
  ENGRAM_ASSIGN_OR_RETURN(mlp.fc2, LoadLinear(name + ".fc2", d_model,
                                              config.width, has_bias, loader));
  return mlp;
}

absl::StatusOr<Activations> Activations::Allocate(int64_t width,
                                                  const ModelLimits& limits,
                                                  Backend* backend) {
  ENGRAM_ASSIGN_OR_RETURN(
      std::unique_ptr<Buffer> buffer,
      backend->Allocate(limits.max_batch_tokens * width * sizeof(float)));
  return Activations(width, std::move(buffer));
}

}  // namespace engram
