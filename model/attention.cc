#include "model/attention.h"

#include <cmath>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

struct Layer {
  Linear qkv;  // [3 d_model, d_model]: all heads' q, then k, then v
  Linear output;
};

std::vector<double> RotaryFrequencies(int64_t rotary_dim) {
  std::vector<double> frequencies(rotary_dim / 2);
  for (int64_t i = 0; i < rotary_dim / 2; ++i) {
    frequencies[i] = std::pow(10000.0, -2.0 * static_cast<double>(i) /
                                           static_cast<double>(rotary_dim));
  }
  return frequencies;
}

// Files of rotary models carry the frequencies that follow from the number of
// rotated dimensions. Others than these would be another model.
absl::Status CheckFrequencies(const std::string& name, int64_t rotary_dim,
                              WeightLoader* loader) {
  if (!loader->checkpoint().Has(name)) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<float> stored,
                          loader->Values(name, {rotary_dim / 2}));
  for (int64_t i = 0; i < rotary_dim / 2; ++i) {
    const double expected = std::pow(10000.0, -2.0 * i / rotary_dim);
    // As a 16-bit file would round them.
    if (std::abs(stored[i] - expected) <= 0.01 * expected) continue;
    return absl::UnimplementedError(absl::StrCat(
        loader->folder(), ": tensor ", name, "[", i, "] is ", stored[i],
        "; supported: 10000^(-2i / ", rotary_dim, "), here ", expected));
  }
  return absl::OkStatus();
}

class Attention final : public Mixers {
 public:
  Attention(Backend* backend, int64_t d_model, int64_t heads,
            int64_t rotary_dim, std::vector<Layer> layers,
            std::unique_ptr<Buffer> frequencies,
            std::unique_ptr<Buffer> projected)
      : backend_(backend),
        d_model_(d_model),
        heads_(heads),
        rotary_dim_(rotary_dim),
        layers_(std::move(layers)),
        frequencies_(std::move(frequencies)),
        projected_(std::move(projected)) {}

  std::vector<StateComponent> StateComponents() const override { return {}; }
  KeyValueShape KeyValues() const override {
    return {static_cast<int64_t>(layers_.size()), d_model_};
  }

  void Run(int64_t index, const LayerStep& step) override {
    const Layer& layer = layers_[index];
    const Matrix q = {projected_->floats(), 3 * d_model_};
    backend_->MatMul(*layer.qkv.weight, step.tokens, step.normed,
                     layer.qkv.Options(), q);
    AttentionArguments attention;
    attention.heads = heads_;
    attention.kv_heads = heads_;
    attention.head_dim = d_model_ / heads_;
    attention.scale = 1.0f / std::sqrt(static_cast<float>(d_model_ / heads_));
    attention.rotary_dim = rotary_dim_;
    attention.frequencies = static_cast<const double*>(frequencies_->data());
    attention.q = q;
    attention.k = {q.data + d_model_, q.stride};
    attention.v = {q.data + 2 * d_model_, q.stride};
    attention.histories = step.histories;
    attention.blocks = step.states->key_values()->Layer(index);
    attention.y = q;
    backend_->Attention(step.rows, attention);
    backend_->MatMul(
        *layer.output.weight, step.tokens, q,
        layer.output.Options(Activation::kNone, /*accumulate=*/true),
        step.residual);
  }

 private:
  Backend* const backend_;
  const int64_t d_model_;
  const int64_t heads_;
  const int64_t rotary_dim_;
  const std::vector<Layer> layers_;
  const std::unique_ptr<Buffer> frequencies_;  // [rotary_dim / 2] doubles
  // [tokens, 3 d_model]: q, k and v; the attention's y takes the place of q.
  const std::unique_ptr<Buffer> projected_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Mixers>> LoadAttentionMixers(
    const std::vector<int64_t>& layers, const ModelConfig& config,
    const ModelLimits& limits, Backend* backend, WeightLoader* loader) {
  ENGRAM_CHECK(!layers.empty());
  const int64_t d_model = config.d_model;
  const int64_t rotary_dim = config.mixers.rotary_dim;
  std::vector<Layer> loaded;
  for (int64_t index : layers) {
    Layer layer;
    ENGRAM_ASSIGN_OR_RETURN(
        layer.qkv, LoadLinear(LayerTensorName(index, "mixer.Wqkv"), 3 * d_model,
                              d_model, loader));
    ENGRAM_ASSIGN_OR_RETURN(layer.output,
                            LoadLinear(LayerTensorName(index, "mixer.out_proj"),
                                       d_model, d_model, loader));
    if (rotary_dim > 0) {
      ENGRAM_RETURN_IF_ERROR(
          CheckFrequencies(LayerTensorName(index, "mixer.rotary_emb.inv_freq"),
                           rotary_dim, loader));
    }
    loaded.push_back(std::move(layer));
  }
  const std::vector<double> values = RotaryFrequencies(rotary_dim);
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> frequencies,
                          backend->Allocate(values.size() * sizeof(double)));
  backend->CopyFromHost(frequencies->data(), values.data(),
                        values.size() * sizeof(double));
  ENGRAM_ASSIGN_OR_RETURN(
      std::unique_ptr<Buffer> projected,
      backend->Allocate(limits.max_batch_tokens * 3 * d_model * sizeof(float)));
  return std::make_unique<Attention>(
      backend, d_model, config.mixers.heads, rotary_dim, std::move(loaded),
      std::move(frequencies), std::move(projected));
}

}  // namespace engram
