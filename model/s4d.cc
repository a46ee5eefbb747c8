#include "model/s4d.h"

#include <utility>

#include "kernels/blocks.h"
#include "kernels/status.h"
#include "model/diagonal_ssm.h"
#include "model/modules.h"

namespace engram {
namespace {

// Components of the state, by their places in StateComponents().
enum Component { kDiagonalState };

struct Layer {
  DiagonalSsm ssm;
  Linear output;
};

class S4d final : public Mixers {
 public:
  S4d(Backend* backend, int64_t d_model, int64_t pairs,
      std::vector<Layer> layers)
      : backend_(backend),
        d_model_(d_model),
        pairs_(pairs),
        layers_(std::move(layers)) {}

  std::vector<StateComponent> StateComponents() const override {
    return {{"diagonal_state",
             static_cast<int64_t>(layers_.size()),
             {pairs_, 2, d_model_}}};
  }
  int64_t ScratchFloats() const override {
    return Block(layers_.front()).ScratchFloats();
  }
  void Run(int64_t index, const MixerStep& step) override {
    S4dBlockArguments block = Block(layers_[index]);
    block.norm = step.norm;
    block.diagonal_state = step.State(kDiagonalState, index);
    backend_->S4dBlock(step.rows, block, step.residual);
  }
  const char* name() const override { return "s4d"; }
  const char* fading_state() const override { return "diagonal_state"; }
  absl::StatusOr<std::unique_ptr<MixerProbe>> Probe(
      int64_t index, const SavedLayer& saved,
      HostProducts* products) const override {
    return ProbeS4d(Block(layers_[index]), saved, products);
  }

 private:
  // Without norm and state.
  S4dBlockArguments Block(const Layer& layer) const {
    S4dBlockArguments block;
    block.ssm = layer.ssm.weights(pairs_);
    block.output = layer.output.weights();
    return block;
  }

  Backend* const backend_;
  const int64_t d_model_;
  const int64_t pairs_;
  const std::vector<Layer> layers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Mixers>> LoadS4dMixers(
    const std::vector<int64_t>& layers, const ModelConfig& config,
    Backend* backend, WeightLoader* loader) {
  const int64_t d_model = config.d_model;
  DiagonalSsmLayout ssm;
  ssm.channels = d_model;
  ssm.a_per_channel = false;
  ssm.has_b = false;
  ssm.zero_order_hold = config.zero_order_hold;
  ENGRAM_ASSIGN_OR_RETURN(
      ssm.pairs,
      DiagonalSsmPairs(LayerTensorName(layers.front(), "mixer."), *loader));
  std::vector<Layer> loaded;
  for (int64_t index : layers) {
    const std::string mixer = LayerTensorName(index, "mixer.");
    Layer layer;
    ENGRAM_ASSIGN_OR_RETURN(layer.ssm, LoadDiagonalSsm(mixer, ssm, loader));
    ENGRAM_ASSIGN_OR_RETURN(
        layer.output, LoadLinear(mixer + "output_linear", d_model, d_model,
                                 /*has_bias=*/true, loader));
    loaded.push_back(std::move(layer));
  }
  return std::make_unique<S4d>(backend, d_model, ssm.pairs, std::move(loaded));
}

}  // namespace engram
