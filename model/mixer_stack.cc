#include "model/mixer_stack.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "kernels/status.h"
#include "model/attention.h"
#include "model/h3.h"
#include "model/mixer.h"
#include "model/s4d.h"

namespace engram {
namespace {

struct Mlp {
  LayerNorm norm;
  Linear fc1;  // [mlp_width, d_model]
  Linear fc2;  // [d_model, mlp_width]
};

struct Layer {
  LayerNorm norm;
  Mixers* mixers = nullptr;
  int64_t mixer = 0;         // which of them
  std::unique_ptr<Mlp> mlp;  // nullptr: none
};

// The mixers of a model by kind; either may be nullptr, not both.
struct AllMixers {
  std::unique_ptr<Mixers> ssm;
  std::unique_ptr<Mixers> attention;
};

bool IsAttention(const ModelConfig& config, int64_t layer) {
  const std::vector<int64_t>& attention = config.mixers.attention_layers;
  return std::binary_search(attention.begin(), attention.end(), layer);
}

absl::StatusOr<AllMixers> LoadMixers(const ModelConfig& config,
                                     const ModelLimits& limits,
                                     Backend* backend, WeightLoader* loader) {
  std::vector<int64_t> ssm_layers;
  for (int64_t i = 0; i < config.layers; ++i) {
    if (!IsAttention(config, i)) ssm_layers.push_back(i);
  }
  AllMixers mixers;
  if (!ssm_layers.empty()) {
    const auto load =
        config.family == ModelFamily::kS4d ? LoadS4dMixers : LoadH3Mixers;
    ENGRAM_ASSIGN_OR_RETURN(mixers.ssm,
                            load(ssm_layers, config, limits, backend, loader));
  }
  if (!config.mixers.attention_layers.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(
        mixers.attention, LoadAttentionMixers(config.mixers.attention_layers,
                                              config, limits, backend, loader));
  }
  return mixers;
}

absl::StatusOr<std::unique_ptr<Mlp>> LoadMlp(int64_t layer,
                                             const ModelConfig& config,
                                             WeightLoader* loader) {
  const int64_t width = config.mixers.mlp_width;
  if (width == 0) return nullptr;
  auto mlp = std::make_unique<Mlp>();
  ENGRAM_ASSIGN_OR_RETURN(
      mlp->norm,
      LoadLayerNorm(LayerTensorName(layer, "norm2"), config.d_model, loader));
  ENGRAM_ASSIGN_OR_RETURN(mlp->fc1,
                          LoadLinear(LayerTensorName(layer, "mlp.fc1"), width,
                                     config.d_model, loader));
  ENGRAM_ASSIGN_OR_RETURN(
      mlp->fc2, LoadLinear(LayerTensorName(layer, "mlp.fc2"), config.d_model,
                           width, loader));
  return mlp;
}

class MixerStack final : public LayerStack {
 public:
  MixerStack(Backend* backend, const ModelConfig& config, AllMixers mixers,
             std::vector<Layer> layers, std::unique_ptr<Buffer> hidden)
      : backend_(backend),
        d_model_(config.d_model),
        mlp_width_(config.mixers.mlp_width),
        norm_epsilon_(config.norm_epsilon),
        mixers_(std::move(mixers)),
        layers_(std::move(layers)),
        hidden_(std::move(hidden)) {}

  std::vector<StateComponent> StateComponents() const override {
    if (mixers_.ssm == nullptr) return {};
    return mixers_.ssm->StateComponents();
  }
  KeyValueShape KeyValues() const override {
    if (mixers_.attention == nullptr) return {};
    return mixers_.attention->KeyValues();
  }
  void RunLayer(int64_t index, const LayerStep& step) override;

 private:
  void RunMlp(const Mlp& mlp, const LayerStep& step);

  Backend* const backend_;
  const int64_t d_model_;
  const int64_t mlp_width_;
  const float norm_epsilon_;
  const AllMixers mixers_;
  const std::vector<Layer> layers_;
  const std::unique_ptr<Buffer> hidden_;  // [tokens, mlp_width]
};

void MixerStack::RunLayer(int64_t index, const LayerStep& step) {
  const Layer& layer = layers_[index];
  backend_->Norm(layer.norm.With(norm_epsilon_), step.tokens, d_model_,
                 step.residual.data, step.normed.data);
  layer.mixers->Run(layer.mixer, step);
  if (layer.mlp != nullptr) RunMlp(*layer.mlp, step);
}

void MixerStack::RunMlp(const Mlp& mlp, const LayerStep& step) {
  const Matrix hidden = {hidden_->floats(), mlp_width_};
  backend_->Norm(mlp.norm.With(norm_epsilon_), step.tokens, d_model_,
                 step.residual.data, step.normed.data);
  backend_->MatMul(*mlp.fc1.weight, step.tokens, step.normed,
                   mlp.fc1.Options(Activation::kGeluTanh), hidden);
  backend_->MatMul(*mlp.fc2.weight, step.tokens, hidden,
                   mlp.fc2.Options(Activation::kNone, /*accumulate=*/true),
                   step.residual);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LayerStack>> LoadMixerStack(
    const ModelConfig& config, const ModelLimits& limits, Backend* backend,
    WeightLoader* loader) {
  ENGRAM_ASSIGN_OR_RETURN(AllMixers mixers,
                          LoadMixers(config, limits, backend, loader));
  std::vector<Layer> layers;
  int64_t ssm_layers = 0;
  int64_t attention_layers = 0;
  for (int64_t i = 0; i < config.layers; ++i) {
    Layer layer;
    const bool attention = IsAttention(config, i);
    layer.mixers = attention ? mixers.attention.get() : mixers.ssm.get();
    layer.mixer = attention ? attention_layers++ : ssm_layers++;
    ENGRAM_ASSIGN_OR_RETURN(
        layer.norm,
        LoadLayerNorm(LayerTensorName(i, "norm1"), config.d_model, loader));
    ENGRAM_ASSIGN_OR_RETURN(layer.mlp, LoadMlp(i, config, loader));
    layers.push_back(std::move(layer));
  }
  ENGRAM_ASSIGN_OR_RETURN(
      std::unique_ptr<Buffer> hidden,
      backend->Allocate(limits.max_batch_tokens * config.mixers.mlp_width *
                        sizeof(float)));
  return std::make_unique<MixerStack>(backend, config, std::move(mixers),
                                      std::move(layers), std::move(hidden));
}

}  // namespace engram
