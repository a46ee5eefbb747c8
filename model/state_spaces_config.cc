#include <cmath>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/config_layouts.h"
#include "model/mamba_fields.h"

namespace engram {
namespace {

using nlohmann::json;

constexpr int64_t kPaddingMax = 1 << 16;  // pad_vocab_size_multiple
constexpr int64_t kMlpMultiple = 128;
constexpr double kRotaryBaseMax = 1e15;
constexpr double kScaleMin = 1e-6;
constexpr double kScaleMax = 1e6;

// Settings within ssm_cfg of a Mamba-2 that change the mathematics.
absl::Status RefuseUnsupportedMamba2(const ConfigFields& mixer,
                                     int64_t d_inner) {
  ENGRAM_RETURN_IF_ERROR(mixer.RequireOneOf("D_has_hdim", {false}));
  ENGRAM_RETURN_IF_ERROR(mixer.RequireOneOf("norm_before_gate", {false}));
  ENGRAM_RETURN_IF_ERROR(mixer.RequireOneOf("activation", {"swish", "silu"}));
  return mixer.RequireOneOf("d_ssm", {d_inner});
}

absl::Status ReadMamba2(const ConfigFields& mixer, ModelConfig* config) {
  config->family = "mamba2";
  ENGRAM_RETURN_IF_ERROR(RefuseUnsupportedMamba2(mixer, config->d_inner));
  Mamba2Config& mamba2 = config->mamba2;
  ENGRAM_ASSIGN_OR_RETURN(mamba2.head_dim,
                          mixer.Integer("headdim", 1, kInnerWidthMax, 64));
  if (config->d_inner % mamba2.head_dim != 0) {
    return mixer.Bad("headdim",
                     absl::StrCat("a divisor of d_inner ", config->d_inner));
  }
  mamba2.heads = config->d_inner / mamba2.head_dim;
  ENGRAM_RETURN_IF_ERROR(ReadGroups(mixer, "ngroups", 1, &mamba2));
  ENGRAM_RETURN_IF_ERROR(ReadTimeStepLimit(mixer, "dt_limit", &mamba2));
  ENGRAM_ASSIGN_OR_RETURN(mamba2.gated_norm, mixer.Boolean("rmsnorm"));
  return absl::OkStatus();
}

// The mixers of all layers but those with attention, by ssm_cfg.
absl::Status ReadSsm(const ConfigFields& mixer, int64_t layers,
                     ModelConfig* config) {
  ENGRAM_RETURN_IF_ERROR(mixer.RequireOneOf("layer", {"Mamba1", "Mamba2"}));
  const json* layer = mixer.Find("layer");
  const bool is_mamba2 = layer != nullptr && *layer == "Mamba2";
  ENGRAM_ASSIGN_OR_RETURN(
      config->d_state,
      mixer.Integer("d_state", 1, kStateMax, is_mamba2 ? 128 : 16));
  ENGRAM_ASSIGN_OR_RETURN(config->d_conv,
                          mixer.Integer("d_conv", 2, kConvolutionMax, 4));
  ENGRAM_ASSIGN_OR_RETURN(config->d_inner,
                          ReadInnerWidth(mixer, config->d_model));
  ENGRAM_ASSIGN_OR_RETURN(config->projection_bias, mixer.Boolean("bias"));
  ENGRAM_ASSIGN_OR_RETURN(config->convolution_bias, mixer.Boolean("conv_bias"));
  config->mixers.assign(layers,
                        is_mamba2 ? MixerKind::kMamba2 : MixerKind::kMamba);
  if (is_mamba2) return ReadMamba2(mixer, config);
  config->family = "mamba";
  ENGRAM_ASSIGN_OR_RETURN(config->dt_rank,
                          ReadDtRank(mixer, "dt_rank", config->d_model));
  return absl::OkStatus();
}

// The heads of attention layers. Upstream's class attends to what comes after,
// too, unless it is told to be causal.
absl::Status ReadHeads(const ConfigFields& fields, int64_t d_model,
                       AttentionConfig* attention) {
  const json* causal = fields.Find("causal");
  if (causal == nullptr || *causal != true) {
    return fields.Unsupported("causal", "true");
  }
  ENGRAM_ASSIGN_OR_RETURN(
      attention->heads,
      fields.Integer("num_heads", 1, kHeadsMax, std::nullopt));
  ENGRAM_ASSIGN_OR_RETURN(
      attention->kv_heads,
      fields.Integer("num_heads_kv", 1, kHeadsMax, attention->heads));
  if (attention->heads % attention->kv_heads != 0) {
    return fields.Bad("num_heads_kv", absl::StrCat("a divisor of num_heads ",
                                                   attention->heads));
  }
  if (fields.Find("head_dim") == nullptr && d_model % attention->heads != 0) {
    return fields.Bad("num_heads",
                      absl::StrCat("a divisor of d_model ", d_model));
  }
  ENGRAM_ASSIGN_OR_RETURN(
      attention->head_dim,
      fields.Integer("head_dim", 1, kInnerWidthMax / attention->heads,
                     d_model / attention->heads));
  const double usual =
      1.0f / std::sqrt(static_cast<float>(attention->head_dim));
  ENGRAM_ASSIGN_OR_RETURN(
      attention->scale,
      fields.Number("softmax_scale", kScaleMin, kScaleMax, usual));
  return absl::OkStatus();
}

// The attention of those layers that have it, by attn_cfg.
absl::Status ReadAttention(const ConfigFields& fields, int64_t d_model,
                           AttentionConfig* attention) {
  ENGRAM_RETURN_IF_ERROR(ReadHeads(fields, d_model, attention));
  ENGRAM_RETURN_IF_ERROR(fields.RequireOneOf("mlp_dim", {0}));
  ENGRAM_RETURN_IF_ERROR(
      fields.RequireOneOf("rotary_emb_interleaved", {false}));
  ENGRAM_ASSIGN_OR_RETURN(
      attention->rotary_dim,
      fields.RotaryDim("rotary_emb_dim", attention->head_dim));
  ENGRAM_ASSIGN_OR_RETURN(
      attention->rotary_base,
      fields.Number("rotary_emb_base", 1, kRotaryBaseMax, 10000));
  ENGRAM_ASSIGN_OR_RETURN(attention->d_conv,
                          fields.Integer("d_conv", 0, kConvolutionMax, 0));
  if (attention->d_conv == 1) {
    return fields.Bad(
        "d_conv", absl::StrCat("0, or an integer from 2 to ", kConvolutionMax));
  }
  ENGRAM_ASSIGN_OR_RETURN(attention->qkv_bias, fields.Boolean("qkv_proj_bias"));
  ENGRAM_ASSIGN_OR_RETURN(attention->output_bias,
                          fields.Boolean("out_proj_bias"));
  return absl::OkStatus();
}

absl::Status ReadMixers(const ConfigFields& fields, ModelConfig* config) {
  ENGRAM_ASSIGN_OR_RETURN(
      const int64_t layers,
      fields.Integer("n_layer", 1, kLayersMax, std::nullopt));
  ENGRAM_ASSIGN_OR_RETURN(const ConfigFields ssm, fields.Object("ssm_cfg"));
  ENGRAM_RETURN_IF_ERROR(ReadSsm(ssm, layers, config));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> attention,
                          fields.Layers("attn_layer_idx", layers));
  if (attention.empty()) return absl::OkStatus();
  for (const int64_t layer : attention) {
    config->mixers[layer] = MixerKind::kAttention;
  }
  ENGRAM_ASSIGN_OR_RETURN(const ConfigFields attention_fields,
                          fields.Object("attn_cfg"));
  return ReadAttention(attention_fields, config->d_model, &config->attention);
}

absl::Status ReadMlp(const ConfigFields& fields, MlpConfig* mlp) {
  ENGRAM_ASSIGN_OR_RETURN(const int64_t width,
                          fields.Integer("d_intermediate", 0, kWidthMax, 0));
  if (width == 0) return absl::OkStatus();
  mlp->kind = MlpKind::kGated;
  mlp->width = (width + kMlpMultiple - 1) / kMlpMultiple * kMlpMultiple;
  return absl::OkStatus();
}

}  // namespace

// Its vocab_size does not count the padding, and its norms have no epsilon to
// set.
absl::StatusOr<ModelConfig> ReadStateSpaces(const ConfigFields& fields) {
  ModelConfig config;
  ENGRAM_RETURN_IF_ERROR(fields.RequireOneOf("rms_norm", {true}));
  ENGRAM_ASSIGN_OR_RETURN(
      const int64_t ids,
      fields.Integer("vocab_size", 1, kVocabMax, std::nullopt));
  ENGRAM_ASSIGN_OR_RETURN(
      const int64_t multiple,
      fields.Integer("pad_vocab_size_multiple", 1, kPaddingMax, 8));
  config.vocab = (ids + multiple - 1) / multiple * multiple;
  ENGRAM_ASSIGN_OR_RETURN(
      config.d_model, fields.Integer("d_model", 1, kWidthMax, std::nullopt));
  ENGRAM_RETURN_IF_ERROR(ReadMixers(fields, &config));
  ENGRAM_RETURN_IF_ERROR(ReadMlp(fields, &config.mlp));
  ENGRAM_ASSIGN_OR_RETURN(const std::optional<bool> tied,
                          fields.Boolean("tie_embeddings"));
  config.tied = tied.value_or(true);
  return config;
}

}  // namespace engram
