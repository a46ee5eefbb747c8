#include "model/mamba2.h"

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/blocks.h"
#include "kernels/status.h"
#include "model/modules.h"

namespace engram {
namespace {

// Components of the state, by their places in StateComponents().
enum Component { kConvState, kSsmState };

struct Dimensions {
  int64_t d_model = 0;
  int64_t heads = 0;
  int64_t groups = 0;
  int64_t head_dim = 0;
  int64_t d_state = 0;
  int64_t d_conv = 0;

  int64_t d_inner() const { return heads * head_dim; }
  // B of all groups, or C.
  int64_t group_states() const { return groups * d_state; }
  // Channels of the convolution: x, B and C side by side.
  int64_t convolved() const { return d_inner() + 2 * group_states(); }
  // Outputs of in_proj: z, x, B, C and dt side by side.
  int64_t projected() const { return d_inner() + convolved() + heads; }
};

struct Layer {
  Linear in_proj;                      // [projected, d_model]
  Convolution convolution;             // of the channels of x, B and C
  std::unique_ptr<Buffer> dt_bias;     // [heads]
  std::unique_ptr<Buffer> a;           // [heads]
  std::unique_ptr<Buffer> d;           // [heads]
  std::unique_ptr<Buffer> gated_norm;  // [d_inner] or nullptr
  Linear out_proj;                     // [d_model, d_inner]
};

// How x, B and C are divided into heads and groups no tensor tells: these
// numbers are the configuration's, and the tensors must agree.
absl::StatusOr<Dimensions> ReadDimensions(int64_t layer,
                                          const ModelConfig& config,
                                          const WeightLoader& loader) {
  Dimensions dimensions;
  dimensions.d_model = config.d_model;
  dimensions.heads = config.mamba2.heads;
  dimensions.groups = config.mamba2.groups;
  dimensions.head_dim = config.mamba2.head_dim;
  dimensions.d_state = config.d_state;
  ENGRAM_ASSIGN_OR_RETURN(
      dimensions.d_conv,
      loader.ConvolutionTaps(LayerTensorName(layer, "mixer.conv1d.weight")));
  return dimensions;
}

// A known variant has one D per channel instead of per head.
absl::Status RefuseDPerChannel(const std::string& name,
                               const Dimensions& dimensions,
                               const WeightLoader& loader) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> shape,
                          loader.Shape(name, 1));
  if (shape[0] == dimensions.heads || shape[0] != dimensions.d_inner()) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(
      absl::StrCat(loader.folder(), ": tensor ", name, " has ", shape[0],
                   " elements, one per channel; supported: one per head, ",
                   dimensions.heads));
}

absl::StatusOr<Layer> LoadLayer(const std::string& mixer,
                                const Dimensions& dimensions,
                                const ModelConfig& config,
                                WeightLoader* loader) {
  const int64_t d_model = dimensions.d_model;
  const int64_t d_inner = dimensions.d_inner();
  const int64_t heads = dimensions.heads;
  Layer layer;
  ENGRAM_ASSIGN_OR_RETURN(std::vector<float> a,
                          loader->Values(mixer + "A_log", {heads}));
  // After widening: exp of a 16-bit A_log in 16 bits could be infinite.
  for (float& value : a) value = -std::exp(value);
  ENGRAM_ASSIGN_OR_RETURN(layer.a, loader->Upload(a));
  ENGRAM_RETURN_IF_ERROR(RefuseDPerChannel(mixer + "D", dimensions, *loader));
  ENGRAM_ASSIGN_OR_RETURN(layer.d, loader->Vector(mixer + "D", {heads}));
  ENGRAM_ASSIGN_OR_RETURN(layer.dt_bias,
                          loader->Vector(mixer + "dt_bias", {heads}));
  ENGRAM_ASSIGN_OR_RETURN(layer.in_proj,
                          LoadLinear(mixer + "in_proj", dimensions.projected(),
                                     d_model, config.projection_bias, loader));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.convolution,
      LoadConvolution(mixer + "conv1d", dimensions.convolved(),
                      dimensions.d_conv, config.convolution_bias, loader));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.gated_norm, loader->OptionalVector(mixer + "norm.weight", {d_inner},
                                               config.mamba2.gated_norm));
  ENGRAM_ASSIGN_OR_RETURN(layer.out_proj,
                          LoadLinear(mixer + "out_proj", d_model, d_inner,
                                     config.projection_bias, loader));
  return layer;
}

class Mamba2 final : public Mixers {
 public:
  Mamba2(Backend* backend, const Dimensions& dimensions,
         const ModelConfig& config, std::vector<Layer> layers)
      : backend_(backend),
        dimensions_(dimensions),
        norm_epsilon_(config.norm_epsilon),
        dt_min_(config.mamba2.dt_min),
        dt_max_(config.mamba2.dt_max),
        layers_(std::move(layers)) {}

  std::vector<StateComponent> StateComponents() const override {
    const auto layers = static_cast<int64_t>(layers_.size());
    return {{"conv_state",
             layers,
             {dimensions_.d_conv - 1, dimensions_.convolved()}},
            {"ssm_state",
             layers,
             {dimensions_.heads, dimensions_.d_state, dimensions_.head_dim}}};
  }
  int64_t ScratchFloats() const override {
    return Block(layers_.front()).ScratchFloats();
  }
  void Run(int64_t index, const MixerStep& step) override {
    Mamba2BlockArguments block = Block(layers_[index]);
    block.norm = step.norm;
    block.conv_state = step.State(kConvState, index);
    block.ssm_state = step.State(kSsmState, index);
    backend_->Mamba2Block(step.rows, block, step.residual);
  }
  const char* name() const override { return "mamba2"; }
  const char* fading_state() const override { return "ssm_state"; }
  int64_t taps() const override { return dimensions_.d_conv; }
  absl::StatusOr<std::unique_ptr<MixerProbe>> Probe(
      int64_t index, const SavedLayer& saved,
      HostProducts* products) const override {
    return ProbeMamba2(Block(layers_[index]), saved, products);
  }

 private:
  // Without norm and states.
  Mamba2BlockArguments Block(const Layer& layer) const;

  Backend* const backend_;
  const Dimensions dimensions_;
  const float norm_epsilon_;
  const float dt_min_;
  const float dt_max_;
  const std::vector<Layer> layers_;
};

Mamba2BlockArguments Mamba2::Block(const Layer& layer) const {
  Mamba2BlockArguments block;
  block.heads = dimensions_.heads;
  block.groups = dimensions_.groups;
  block.head_dim = dimensions_.head_dim;
  block.d_state = dimensions_.d_state;
  block.dt_min = dt_min_;
  block.dt_max = dt_max_;
  block.in_proj = layer.in_proj.weights();
  block.convolution = layer.convolution.weights();
  block.dt_bias = layer.dt_bias->floats();
  block.a = layer.a->floats();
  block.d = layer.d->floats();
  block.gated_norm = FloatsOrNull(layer.gated_norm);
  block.gated_norm_epsilon = norm_epsilon_;
  block.out_proj = layer.out_proj.weights();
  return block;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Mixers>> LoadMamba2Mixers(
    const std::vector<int64_t>& layers, const ModelConfig& config,
    Backend* backend, WeightLoader* loader) {
  ENGRAM_ASSIGN_OR_RETURN(const Dimensions dimensions,
                          ReadDimensions(layers.front(), config, *loader));
  std::vector<Layer> loaded;
  for (const int64_t index : layers) {
    ENGRAM_ASSIGN_OR_RETURN(
        Layer layer, LoadLayer(LayerTensorName(index, "mixer."), dimensions,
                               config, loader));
    loaded.push_back(std::move(layer));
  }
  return std::make_unique<Mamba2>(backend, dimensions, config,
                                  std::move(loaded));
}

}  // namespace engram
