#include "model/s4d.h"

#include <utility>

#include "kernels/status.h"
#include "model/diagonal_ssm.h"

namespace engram {
namespace {

enum Component { kDiagonalState };

struct Layer {
  DiagonalSsm ssm;
  Linear output;
};

class S4d final : public Mixers {
 public:
  S4d(Backend* backend, int64_t d_model, int64_t pairs,
      std::vector<Layer> layers, std::unique_ptr<Buffer> scanned)
      : backend_(backend),
        d_model_(d_model),
        pairs_(pairs),
        layers_(std::move(layers)),
        scanned_(std::move(scanned)) {}

  std::vector<StateComponent> StateComponents() const override {
    return {{"diagonal_state",
             static_cast<int64_t>(layers_.size()),
             {pairs_, 2, d_model_}}};
  }

  void Run(int64_t index, const LayerStep& step) override {
    const Layer& layer = layers_[index];
    const Matrix scanned = {scanned_->floats(), d_model_};
    DiagonalScanArguments scan;
    scan.channels = d_model_;
    scan.pairs = pairs_;
    scan.p = step.normed;
    scan.decay = layer.ssm.decay->floats();
    scan.read = layer.ssm.read->floats();
    scan.d = layer.ssm.d->floats();
    scan.activation = Activation::kGelu;
    scan.diagonal_state = step.states->Layer(kDiagonalState, index);
    scan.y = scanned;
    backend_->DiagonalScan(step.rows, scan);
    backend_->MatMul(
        *layer.output.weight, step.tokens, scanned,
        layer.output.Options(Activation::kNone, /*accumulate=*/true),
        step.residual);
  }

 private:
  Backend* const backend_;
  const int64_t d_model_;
  const int64_t pairs_;
  const std::vector<Layer> layers_;
  const std::unique_ptr<Buffer> scanned_;  // [tokens, d_model]
};

}  // namespace

absl::StatusOr<std::unique_ptr<Mixers>> LoadS4dMixers(
    const std::vector<int64_t>& layers, const ModelConfig& config,
    const ModelLimits& limits, Backend* backend, WeightLoader* loader) {
  ENGRAM_CHECK(!layers.empty());
  const int64_t d_model = config.d_model;
  DiagonalSsmLayout ssm;
  ssm.channels = d_model;
  ssm.a_per_channel = false;
  ssm.has_b = false;
  ssm.zero_order_hold = config.mixers.zero_order_hold;
  ENGRAM_ASSIGN_OR_RETURN(
      ssm.pairs,
      DiagonalSsmPairs(LayerTensorName(layers.front(), "mixer."), *loader));
  std::vector<Layer> loaded;
  for (int64_t index : layers) {
    const std::string mixer = LayerTensorName(index, "mixer.");
    Layer layer;
    ENGRAM_ASSIGN_OR_RETURN(layer.ssm, LoadDiagonalSsm(mixer, ssm, loader));
    ENGRAM_ASSIGN_OR_RETURN(layer.output, LoadLinear(mixer + "output_linear",
                                                     d_model, d_model, loader));
    loaded.push_back(std::move(layer));
  }
  ENGRAM_ASSIGN_OR_RETURN(
      std::unique_ptr<Buffer> scanned,
      backend->Allocate(limits.max_batch_tokens * d_model * sizeof(float)));
  return std::make_unique<S4d>(backend, d_model, ssm.pairs, std::move(loaded),
                               std::move(scanned));
}

}  // namespace engram
