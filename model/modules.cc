#include "model/modules.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {

std::string LayerTensorName(int64_t layer, const char* tensor) {
  return absl::StrCat("backbone.layers.", layer, ".", tensor);
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

absl::StatusOr<Norm> LoadNorm(const std::string& name,
                              const ModelConfig& config, WeightLoader* loader) {
  Norm norm;
  norm.kind = config.norm;
  norm.epsilon = config.norm_epsilon;
  ENGRAM_ASSIGN_OR_RETURN(norm.weight,
                          loader->Vector(name + ".weight", {config.d_model}));
  if (norm.kind == NormKind::kLayer) {
    ENGRAM_ASSIGN_OR_RETURN(norm.bias,
                            loader->Vector(name + ".bias", {config.d_model}));
  }
  return norm;
}

absl::StatusOr<Convolution> LoadConvolution(const std::string& name,
                                            int64_t channels, int64_t taps,
                                            std::optional<bool> has_bias,
                                            WeightLoader* loader) {
  Convolution convolution;
  convolution.taps = taps;
  ENGRAM_ASSIGN_OR_RETURN(
      convolution.weight,
      loader->Convolution(name + ".weight", channels, taps));
  ENGRAM_ASSIGN_OR_RETURN(
      convolution.bias,
      loader->OptionalVector(name + ".bias", {channels}, has_bias));
  return convolution;
}

absl::StatusOr<Mlp> LoadMlp(const std::string& name, const MlpConfig& config,
                            int64_t d_model, WeightLoader* loader) {
  const bool has_bias = config.kind == MlpKind::kGelu;
  Mlp mlp;
  mlp.gated = config.kind == MlpKind::kGated;
  ENGRAM_ASSIGN_OR_RETURN(mlp.fc1, LoadLinear(name + ".fc1", config.hidden(),
                                              d_model, has_bias, loader));
  ENGRAM_ASSIGN_OR_RETURN(mlp.fc2, LoadLinear(name + ".fc2", d_model,
                                              config.width, has_bias, loader));
  return mlp;
}

}  // namespace engram
