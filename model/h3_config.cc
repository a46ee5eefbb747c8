#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/config_layouts.h"

namespace engram {
namespace {

constexpr int64_t kPositionsMax = 1 << 24;

MixerKind MixerOf(const std::string& family) {
  if (family == "attention") return MixerKind::kAttention;
  return family == "s4d" ? MixerKind::kS4d : MixerKind::kH3;
}

// Of a hybrid H3 the layers in attn_layer_idx mix tokens by attention.
absl::Status ReadMixers(const ConfigFields& fields, ModelConfig* config) {
  ENGRAM_ASSIGN_OR_RETURN(
      const int64_t layers,
      fields.Integer("num_hidden_layers", 1, kLayersMax, std::nullopt));
  const MixerKind kind = MixerOf(config->family);
  config->mixers.assign(layers, kind);
  if (kind == MixerKind::kAttention) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> attention,
                          fields.Layers("attn_layer_idx", layers));
  if (kind == MixerKind::kS4d && !attention.empty()) {
    return fields.Unsupported("attn_layer_idx", "[]");
  }
  for (const int64_t layer : attention) {
    config->mixers[layer] = MixerKind::kAttention;
  }
  return absl::OkStatus();
}

absl::Status ReadAttention(const ConfigFields& fields, ModelConfig* config) {
  if (config->LayersWith(MixerKind::kAttention).empty()) {
    return absl::OkStatus();
  }
  AttentionConfig& attention = config->attention;
  ENGRAM_ASSIGN_OR_RETURN(
      attention.heads,
      fields.Integer("num_attention_heads", 1, kHeadsMax, std::nullopt));
  if (config->d_model % attention.heads != 0) {
    return fields.Bad(
        "num_attention_heads",
        absl::StrCat("a divisor of hidden_size ", config->d_model));
  }
  attention.kv_heads = attention.heads;
  attention.head_dim = config->d_model / attention.heads;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim));
  ENGRAM_ASSIGN_OR_RETURN(
      attention.rotary_dim,
      fields.RotaryDim("rotary_emb_dim", attention.head_dim));
  attention.qkv_bias = true;
  attention.output_bias = true;
  attention.qkv_name = "Wqkv";
  return absl::OkStatus();
}

// Which diagonal SSM the layers have, if any.
absl::Status ReadDiagonalSsm(const ConfigFields& fields, ModelConfig* config) {
  ENGRAM_RETURN_IF_ERROR(fields.RequireOneOf("ssm_mode", {"diag"}));
  // S4D is defined by zero-order hold.
  const bool is_s4d = config->family == "s4d";
  if (is_s4d) {
    ENGRAM_RETURN_IF_ERROR(fields.RequireOneOf("ssm_disc", {"zoh"}));
  } else {
    ENGRAM_RETURN_IF_ERROR(
        fields.RequireOneOf("ssm_disc", {"bilinear", "zoh"}));
  }
  const nlohmann::json* rule = fields.Find("ssm_disc");
  config->zero_order_hold = is_s4d || (rule != nullptr && *rule == "zoh");
  return absl::OkStatus();
}

}  // namespace

// The fields are those of H3's code and of GPT-2 in Hugging Face's
// transformers.
absl::StatusOr<ModelConfig> ReadH3(const ConfigFields& fields,
                                   const std::string& family) {
  ModelConfig config;
  config.family = family;
  config.norm = NormKind::kLayer;
  config.names.embeddings = {"backbone.embeddings.word_embeddings.weight"};
  config.names.final_norm = "backbone.ln_f";
  config.names.mixer_norm = "norm1";
  ENGRAM_ASSIGN_OR_RETURN(
      config.vocab, fields.Integer("vocab_size", 1, kVocabMax, std::nullopt));
  ENGRAM_ASSIGN_OR_RETURN(
      config.d_model,
      fields.Integer("hidden_size", 1, kWidthMax, std::nullopt));
  ENGRAM_RETURN_IF_ERROR(ReadMixers(fields, &config));
  ENGRAM_ASSIGN_OR_RETURN(
      config.mlp.width,
      fields.Integer("n_inner", 0, kInnerWidthMax, 4 * config.d_model));
  if (config.mlp.width > 0) config.mlp.kind = MlpKind::kGelu;
  ENGRAM_ASSIGN_OR_RETURN(
      config.norm_epsilon,
      fields.Number("layer_norm_epsilon", kEpsilonMin, 1, 1e-5));
  ENGRAM_ASSIGN_OR_RETURN(const std::optional<bool> tied,
                          fields.Boolean("tie_word_embeddings"));
  config.tied = tied.value_or(true);
  ENGRAM_RETURN_IF_ERROR(ReadAttention(fields, &config));
  ENGRAM_RETURN_IF_ERROR(ReadDiagonalSsm(fields, &config));
  ENGRAM_ASSIGN_OR_RETURN(
      config.positions,
      fields.Integer("max_position_embeddings", 0, kPositionsMax, 0));
  // Only attention keeps count of positions; H3 and S4D have no use for them.
  if (config.positions > 0 && family != "attention") {
    return fields.Unsupported("max_position_embeddings", "0");
  }
  return config;
}

}  // namespace engram
