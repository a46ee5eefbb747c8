#include "model/h3.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/blocks.h"
#include "kernels/status.h"
#include "model/diagonal_ssm.h"
#include "model/modules.h"

namespace engram {
namespace {

// Components of the state, by their places in StateComponents().
enum Component { kShiftState, kDiagonalState };

constexpr int64_t kTapsMax = 4096;

struct Layer {
  Linear q_proj;
  Linear k_proj;
  Linear v_proj;
  std::unique_ptr<Buffer> filter;  // [taps, d_model], the shift SSM
  DiagonalSsm ssm;
  Linear output;
};

// The shift SSM with its skip term D as one filter, the newest input's tap
// last: tap l back is Σ_m C[m + l] B[m], and D is added to that of the newest.
absl::StatusOr<std::unique_ptr<Buffer>> LoadFilter(const std::string& mixer,
                                                   int64_t channels,
                                                   int64_t taps,
                                                   WeightLoader* loader) {
  const std::string kernel = mixer + "ssm_k_kernel.kernel.";
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<float> b,
                          loader->Values(kernel + "B", {channels, taps}));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<float> c,
                          loader->Values(kernel + "C", {1, channels, taps}));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<float> d,
                          loader->Values(mixer + "ssm_k_D", {channels}));
  std::vector<float> filter(taps * channels);
  for (int64_t channel = 0; channel < channels; ++channel) {
    for (int64_t back = 0; back < taps; ++back) {
      double tap = back == 0 ? d[channel] : 0.0;
      for (int64_t m = 0; m + back < taps; ++m) {
        tap += double{c[channel * taps + m + back]} * b[channel * taps + m];
      }
      filter[(taps - 1 - back) * channels + channel] = static_cast<float>(tap);
    }
  }
  return loader->Upload(filter);
}

absl::StatusOr<int64_t> ReadTaps(int64_t layer, const WeightLoader& loader) {
  const std::string name =
      LayerTensorName(layer, "mixer.ssm_k_kernel.kernel.B");
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> shape,
                          loader.Shape(name, 2));
  if (shape[1] <= kTapsMax) return shape[1];
  return absl::DataLossError(
      absl::StrCat(loader.folder(), ": tensor ", name, " has ", shape[1],
                   " states per channel, limit ", kTapsMax));
}

absl::StatusOr<Layer> LoadLayer(const std::string& mixer, int64_t d_model,
                                int64_t taps, const DiagonalSsmLayout& ssm,
                                WeightLoader* loader) {
  Layer layer;
  ENGRAM_ASSIGN_OR_RETURN(layer.q_proj,
                          LoadLinear(mixer + "q_proj", d_model, d_model,
                                     /*has_bias=*/true, loader));
  ENGRAM_ASSIGN_OR_RETURN(layer.k_proj,
                          LoadLinear(mixer + "k_proj", d_model, d_model,
                                     /*has_bias=*/true, loader));
  ENGRAM_ASSIGN_OR_RETURN(layer.v_proj,
                          LoadLinear(mixer + "v_proj", d_model, d_model,
                                     /*has_bias=*/true, loader));
  ENGRAM_ASSIGN_OR_RETURN(layer.filter,
                          LoadFilter(mixer, d_model, taps, loader));
  ENGRAM_ASSIGN_OR_RETURN(layer.ssm, LoadDiagonalSsm(mixer, ssm, loader));
  ENGRAM_ASSIGN_OR_RETURN(layer.output,
                          LoadLinear(mixer + "output_linear", d_model, d_model,
                                     /*has_bias=*/true, loader));
  return layer;
}

class H3 final : public Mixers {
 public:
  H3(Backend* backend, int64_t d_model, int64_t taps, int64_t pairs,
     std::vector<Layer> layers)
      : backend_(backend),
        d_model_(d_model),
        taps_(taps),
        pairs_(pairs),
        layers_(std::move(layers)) {}

  std::vector<StateComponent> StateComponents() const override {
    const auto layers = static_cast<int64_t>(layers_.size());
    return {{"shift_state", layers, {taps_ - 1, d_model_}},
            {"diagonal_state", layers, {pairs_, 2, d_model_}}};
  }
  int64_t ScratchFloats() const override {
    return Block(layers_.front()).ScratchFloats();
  }
  void Run(int64_t index, const MixerStep& step) override {
    H3BlockArguments block = Block(layers_[index]);
    block.norm = step.norm;
    block.shift_state = step.State(kShiftState, index);
    block.diagonal_state = step.State(kDiagonalState, index);
    backend_->H3Block(step.rows, block, step.residual);
  }
  const char* name() const override { return "h3"; }
  const char* fading_state() const override { return "diagonal_state"; }
  int64_t taps() const override { return taps_; }
  absl::StatusOr<std::unique_ptr<MixerProbe>> Probe(
      int64_t index, const SavedLayer& saved,
      HostProducts* products) const override {
    return ProbeH3(Block(layers_[index]), saved, products);
  }

 private:
  // Without norm and states.
  H3BlockArguments Block(const Layer& layer) const;

  Backend* const backend_;
  const int64_t d_model_;
  const int64_t taps_;
  const int64_t pairs_;
  const std::vector<Layer> layers_;
};

H3BlockArguments H3::Block(const Layer& layer) const {
  H3BlockArguments block;
  block.q_proj = layer.q_proj.weights();
  block.k_proj = layer.k_proj.weights();
  block.v_proj = layer.v_proj.weights();
  block.taps = taps_;
  block.filter = layer.filter->floats();
  block.ssm = layer.ssm.weights(pairs_);
  block.output = layer.output.weights();
  return block;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Mixers>> LoadH3Mixers(
    const std::vector<int64_t>& layers, const ModelConfig& config,
    Backend* backend, WeightLoader* loader) {
  const int64_t d_model = config.d_model;
  ENGRAM_ASSIGN_OR_RETURN(const int64_t taps,
                          ReadTaps(layers.front(), *loader));
  DiagonalSsmLayout ssm;
  ssm.channels = d_model;
  ssm.zero_order_hold = config.zero_order_hold;
  ENGRAM_ASSIGN_OR_RETURN(
      ssm.pairs,
      DiagonalSsmPairs(LayerTensorName(layers.front(), "mixer."), *loader));
  std::vector<Layer> loaded;
  for (int64_t index : layers) {
    ENGRAM_ASSIGN_OR_RETURN(
        Layer layer, LoadLayer(LayerTensorName(index, "mixer."), d_model, taps,
                               ssm, loader));
    loaded.push_back(std::move(layer));
  }
  return std::make_unique<H3>(backend, d_model, taps, ssm.pairs,
                              std::move(loaded));
}

}  // namespace engram
