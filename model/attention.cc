#include "model/attention.h"

#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/blocks.h"
#include "kernels/status.h"
#include "model/modules.h"

namespace engram {
namespace {

// Components of the state, by their places in StateComponents(); only with a
// convolution.
enum Component { kConvState };

struct Layer {
  Linear qkv;  // [qkv_width, d_model]: all heads' q, then k, then v
  std::optional<Convolution> convolution;  // of all their channels
  Linear output;                           // [d_model, heads head_dim]
};

// Radians per token, [rotary_dim / 2].
std::vector<double> RotaryFrequencies(const AttentionConfig& config) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < config.rotary_dim / 2; ++i) {
    const double exponent =
        -2.0 * static_cast<double>(i) / static_cast<double>(config.rotary_dim);
    frequencies.push_back(std::pow(config.rotary_base, exponent));
  }
  return frequencies;
}

// Files of rotary models carry the frequencies that follow from the number of
// rotated dimensions. Others than these would be another model.
absl::Status CheckFrequencies(const std::string& name,
                              const AttentionConfig& config,
                              WeightLoader* loader) {
  if (!loader->checkpoint().Has(name)) return absl::OkStatus();
  const std::vector<double> expected = RotaryFrequencies(config);
  const auto count = static_cast<int64_t>(expected.size());
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<float> stored,
                          loader->Values(name, {count}));
  for (int64_t i = 0; i < count; ++i) {
    // As a 16-bit file would round them.
    if (std::abs(stored[i] - expected[i]) <= 0.01 * expected[i]) continue;
    return absl::UnimplementedError(
        absl::StrCat(loader->folder(), ": tensor ", name, "[", i, "] is ",
                     stored[i], "; supported: ", config.rotary_base, "^(-2i / ",
                     config.rotary_dim, "), here ", expected[i]));
  }
  return absl::OkStatus();
}

absl::StatusOr<Layer> LoadLayer(const std::string& mixer,
                                const ModelConfig& config,
                                WeightLoader* loader) {
  const AttentionConfig& attention = config.attention;
  Layer layer;
  ENGRAM_ASSIGN_OR_RETURN(
      layer.qkv, LoadLinear(mixer + attention.qkv_name, attention.qkv_width(),
                            config.d_model, attention.qkv_bias, loader));
  if (attention.d_conv > 0) {
    ENGRAM_ASSIGN_OR_RETURN(
        layer.convolution,
        LoadConvolution(mixer + "conv1d", attention.qkv_width(),
                        attention.d_conv, /*has_bias=*/true, loader));
  }
  ENGRAM_ASSIGN_OR_RETURN(
      layer.output,
      LoadLinear(mixer + "out_proj", config.d_model, attention.q_width(),
                 attention.output_bias, loader));
  if (attention.rotary_dim > 0) {
    ENGRAM_RETURN_IF_ERROR(
        CheckFrequencies(mixer + "rotary_emb.inv_freq", attention, loader));
  }
  return layer;
}

class Attention final : public Mixers {
 public:
  Attention(Backend* backend, const AttentionConfig& config,
            std::vector<Layer> layers, std::unique_ptr<Buffer> frequencies)
      : backend_(backend),
        config_(config),
        layers_(std::move(layers)),
        frequencies_(std::move(frequencies)) {}

  std::vector<StateComponent> StateComponents() const override {
    if (config_.d_conv == 0) return {};
    return {{"attention_conv_state",
             static_cast<int64_t>(layers_.size()),
             {config_.d_conv - 1, config_.qkv_width()}}};
  }
  KeyValueShape KeyValues() const override {
    return {static_cast<int64_t>(layers_.size()), config_.kv_width(),
            config_.head_dim};
  }
  int64_t ScratchFloats() const override {
    return Block(layers_.front()).ScratchFloats();
  }
  void Run(int64_t index, const MixerStep& step) override {
    AttentionBlockArguments block = Block(layers_[index]);
    block.norm = step.norm;
    if (config_.d_conv > 0) block.conv_state = step.State(kConvState, index);
    block.blocks = step.states->KeyValueLayer(index);
    backend_->AttentionBlock(step.rows, block, step.residual);
  }
  const char* name() const override { return "attention"; }
  const char* fading_state() const override { return ""; }
  int64_t taps() const override { return config_.d_conv; }
  absl::StatusOr<std::unique_ptr<MixerProbe>> Probe(
      int64_t index, const SavedLayer& saved,
      HostProducts* products) const override {
    return ProbeAttention(Block(layers_[index]), saved, products);
  }

 private:
  // Without norm, state, keys and values.
  AttentionBlockArguments Block(const Layer& layer) const;

  Backend* const backend_;
  const AttentionConfig config_;
  const std::vector<Layer> layers_;
  const std::unique_ptr<Buffer> frequencies_;  // [rotary_dim / 2] doubles
};

AttentionBlockArguments Attention::Block(const Layer& layer) const {
  AttentionBlockArguments block;
  block.heads = config_.heads;
  block.kv_heads = config_.kv_heads;
  block.head_dim = config_.head_dim;
  block.scale = config_.scale;
  block.rotary_dim = config_.rotary_dim;
  block.frequencies = static_cast<const double*>(frequencies_->data());
  block.qkv = layer.qkv.weights();
  if (layer.convolution.has_value()) {
    block.convolution = layer.convolution->weights();
  }
  block.output = layer.output.weights();
  return block;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Mixers>> LoadAttentionMixers(
    const std::vector<int64_t>& layers, const ModelConfig& config,
    Backend* backend, WeightLoader* loader) {
  const AttentionConfig& attention = config.attention;
  std::vector<Layer> loaded;
  for (const int64_t index : layers) {
    ENGRAM_ASSIGN_OR_RETURN(
        Layer layer,
        LoadLayer(LayerTensorName(index, "mixer."), config, loader));
    loaded.push_back(std::move(layer));
  }
  const std::vector<double> values = RotaryFrequencies(attention);
  const size_t bytes = values.size() * sizeof(double);
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> frequencies,
                          backend->Allocate(bytes));
  ENGRAM_RETURN_IF_ERROR(
      backend->CopyFromHost(frequencies->data(), values.data(), bytes));
  return std::make_unique<Attention>(backend, attention, std::move(loaded),
                                     std::move(frequencies));
}

}  // namespace engram
