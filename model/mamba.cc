#include "model/mamba.h"

#include <cmath>
#include <string>
#include <utility>

#include "kernels/blocks.h"
#include "kernels/status.h"
#include "model/modules.h"

namespace engram {
namespace {

// Components of the state, by their places in StateComponents().
enum Component { kConvState, kSsmState };

struct Dimensions {
  int64_t d_model = 0;
  int64_t d_inner = 0;
  int64_t d_state = 0;
  int64_t d_conv = 0;
  int64_t dt_rank = 0;

  // Outputs of x_proj: dt, B and C side by side.
  int64_t scan_inputs() const { return dt_rank + 2 * d_state; }
};

struct Layer {
  Linear in_proj;                   // [2 d_inner, d_model], x then z
  Convolution convolution;          // of d_inner channels
  Linear x_proj;                    // [dt_rank + 2 d_state, d_inner]
  Linear dt_proj;                   // [d_inner, dt_rank]
  std::unique_ptr<Buffer> dt_bias;  // [d_inner]
  std::unique_ptr<Buffer> a;        // [d_state, d_inner]
  std::unique_ptr<Buffer> d;        // [d_inner]
  Linear out_proj;                  // [d_model, d_inner]
};

// The widths come from the tensors of the first layer, because configs in the
// wild are wrong about them; every other tensor must then agree.
absl::StatusOr<Dimensions> ReadDimensions(int64_t layer,
                                          const ModelConfig& config,
                                          const WeightLoader& loader) {
  Dimensions dimensions;
  dimensions.d_model = config.d_model;
  ENGRAM_ASSIGN_OR_RETURN(
      const auto a_log, loader.Shape(LayerTensorName(layer, "mixer.A_log"), 2));
  ENGRAM_ASSIGN_OR_RETURN(
      dimensions.d_conv,
      loader.ConvolutionTaps(LayerTensorName(layer, "mixer.conv1d.weight")));
  ENGRAM_ASSIGN_OR_RETURN(
      const auto dt_proj,
      loader.Shape(LayerTensorName(layer, "mixer.dt_proj.weight"), 2));
  dimensions.d_inner = a_log[0];
  dimensions.d_state = a_log[1];
  dimensions.dt_rank = dt_proj[1];
  return dimensions;
}

absl::StatusOr<Layer> LoadLayer(const std::string& mixer,
                                const Dimensions& dimensions,
                                const ModelConfig& config,
                                WeightLoader* loader) {
  const auto [d_model, d_inner, d_state, d_conv, dt_rank] = dimensions;
  Layer layer;
  ENGRAM_ASSIGN_OR_RETURN(layer.in_proj,
                          LoadLinear(mixer + "in_proj", 2 * d_inner, d_model,
                                     config.projection_bias, loader));
  ENGRAM_ASSIGN_OR_RETURN(layer.convolution,
                          LoadConvolution(mixer + "conv1d", d_inner, d_conv,
                                          config.convolution_bias, loader));
  ENGRAM_ASSIGN_OR_RETURN(layer.x_proj,
                          LoadLinear(mixer + "x_proj", dimensions.scan_inputs(),
                                     d_inner, /*has_bias=*/false, loader));
  // Its bias is the scan's affair.
  ENGRAM_ASSIGN_OR_RETURN(
      layer.dt_proj.weight,
      loader->SmallMatrix(mixer + "dt_proj.weight", d_inner, dt_rank));
  ENGRAM_ASSIGN_OR_RETURN(layer.dt_bias,
                          loader->Vector(mixer + "dt_proj.bias", {d_inner}));
  ENGRAM_ASSIGN_OR_RETURN(std::vector<float> a,
                          loader->Values(mixer + "A_log", {d_inner, d_state}));
  // After widening: exp of a 16-bit A_log in 16 bits could be infinite.
  for (float& value : a) value = -std::exp(value);
  ENGRAM_ASSIGN_OR_RETURN(layer.a,
                          loader->Upload(Transposed(a, d_inner, d_state)));
  ENGRAM_ASSIGN_OR_RETURN(layer.d, loader->Vector(mixer + "D", {d_inner}));
  ENGRAM_ASSIGN_OR_RETURN(layer.out_proj,
                          LoadLinear(mixer + "out_proj", d_model, d_inner,
                                     config.projection_bias, loader));
  return layer;
}

class Mamba final : public Mixers {
 public:
  Mamba(Backend* backend, const Dimensions& dimensions,
        std::vector<Layer> layers)
      : backend_(backend),
        dimensions_(dimensions),
        layers_(std::move(layers)) {}

  std::vector<StateComponent> StateComponents() const override {
    const auto [d_model, d_inner, d_state, d_conv, dt_rank] = dimensions_;
    const auto layers = static_cast<int64_t>(layers_.size());
    return {{"conv_state", layers, {d_conv - 1, d_inner}},
            {"ssm_state", layers, {d_state, d_inner}}};
  }
  int64_t ScratchFloats() const override {
    return Block(layers_.front()).ScratchFloats();
  }
  void Run(int64_t index, const MixerStep& step) override {
    MambaBlockArguments block = Block(layers_[index]);
    block.norm = step.norm;
    block.conv_state = step.State(kConvState, index);
    block.ssm_state = step.State(kSsmState, index);
    backend_->MambaBlock(step.rows, block, step.residual);
  }
  const char* name() const override { return "mamba"; }
  const char* fading_state() const override { return "ssm_state"; }
  int64_t taps() const override { return dimensions_.d_conv; }
  absl::StatusOr<std::unique_ptr<MixerProbe>> Probe(
      int64_t index, const SavedLayer& saved,
      HostProducts* products) const override {
    return ProbeMamba(Block(layers_[index]), saved, products);
  }

 private:
  // Without norm and states.
  MambaBlockArguments Block(const Layer& layer) const;

  Backend* const backend_;
  const Dimensions dimensions_;
  const std::vector<Layer> layers_;
};

MambaBlockArguments Mamba::Block(const Layer& layer) const {
  MambaBlockArguments block;
  block.d_inner = dimensions_.d_inner;
  block.d_state = dimensions_.d_state;
  block.dt_rank = dimensions_.dt_rank;
  block.in_proj = layer.in_proj.weights();
  block.convolution = layer.convolution.weights();
  block.x_proj = layer.x_proj.weights();
  block.dt_proj = layer.dt_proj.weights();
  block.dt_bias = layer.dt_bias->floats();
  block.a = layer.a->floats();
  block.d = layer.d->floats();
  block.out_proj = layer.out_proj.weights();
  return block;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Mixers>> LoadMambaMixers(
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
  return std::make_unique<Mamba>(backend, dimensions, std::move(loaded));
}

}  // namespace engram
