#include <optional>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/config_layouts.h"
#include "model/mamba_fields.h"

namespace engram {
namespace {

// What Hugging Face's classes take for fields that are missing, and what the
// model is.
struct ClassDefaults {
  int64_t vocab;
  int64_t d_model;
  int64_t layers;
  int64_t d_state;
  bool tied;
  int32_t eos_token_id;
  const char* family;
  MixerKind mixer;
};
constexpr ClassDefaults kMambaDefaults = {
    50280, 768, 32, 16, true, 0, "mamba", MixerKind::kMamba};
constexpr ClassDefaults kMamba2Defaults = {
    32768, 4096, 64, 128, false, 2, "mamba2", MixerKind::kMamba2};

// What both families have in the layout of Hugging Face. Its field d_inner is
// never read: it is wrong in some published files.
absl::StatusOr<ModelConfig> ReadHuggingFace(const ConfigFields& fields,
                                            const ClassDefaults& defaults) {
  ModelConfig config;
  config.family = defaults.family;
  ENGRAM_RETURN_IF_ERROR(fields.RequireOneOf("hidden_act", {"silu", "swish"}));
  ENGRAM_ASSIGN_OR_RETURN(
      config.vocab, fields.Integer("vocab_size", 1, kVocabMax, defaults.vocab));
  ENGRAM_ASSIGN_OR_RETURN(
      config.d_model,
      fields.Integer("hidden_size", 1, kWidthMax, defaults.d_model));
  ENGRAM_ASSIGN_OR_RETURN(
      const int64_t layers,
      fields.Integer("num_hidden_layers", 1, kLayersMax, defaults.layers));
  config.mixers.assign(layers, defaults.mixer);
  ENGRAM_ASSIGN_OR_RETURN(
      config.d_state,
      fields.Integer("state_size", 1, kStateMax, defaults.d_state));
  ENGRAM_ASSIGN_OR_RETURN(config.d_conv,
                          fields.Integer("conv_kernel", 2, kConvolutionMax, 4));
  ENGRAM_ASSIGN_OR_RETURN(
      config.norm_epsilon,
      fields.Number("layer_norm_epsilon", kEpsilonMin, 1, 1e-5));
  ENGRAM_ASSIGN_OR_RETURN(config.projection_bias, fields.Boolean("use_bias"));
  ENGRAM_ASSIGN_OR_RETURN(config.convolution_bias,
                          fields.Boolean("use_conv_bias"));
  ENGRAM_ASSIGN_OR_RETURN(const std::optional<bool> tied,
                          fields.Boolean("tie_word_embeddings"));
  config.tied = tied.value_or(defaults.tied);
  if (defaults.eos_token_id < config.vocab) {
    config.eos_token_ids = {defaults.eos_token_id};
  }
  return config;
}

}  // namespace

absl::StatusOr<ModelConfig> ReadHuggingFaceMamba(const ConfigFields& fields) {
  ENGRAM_ASSIGN_OR_RETURN(ModelConfig config,
                          ReadHuggingFace(fields, kMambaDefaults));
  ENGRAM_ASSIGN_OR_RETURN(config.d_inner,
                          ReadInnerWidth(fields, config.d_model));
  ENGRAM_ASSIGN_OR_RETURN(config.dt_rank,
                          ReadDtRank(fields, "time_step_rank", config.d_model));
  return config;
}

// expand is not read: the heads' channels are the inner width. Nor is
// norm_before_gate, which some published files set and Hugging Face's class
// ignores: the gate always comes first.
absl::StatusOr<ModelConfig> ReadHuggingFaceMamba2(const ConfigFields& fields) {
  ENGRAM_ASSIGN_OR_RETURN(ModelConfig config,
                          ReadHuggingFace(fields, kMamba2Defaults));
  Mamba2Config& mamba2 = config.mamba2;
  ENGRAM_ASSIGN_OR_RETURN(mamba2.heads,
                          fields.Integer("num_heads", 1, kHeadsMax, 128));
  ENGRAM_ASSIGN_OR_RETURN(
      mamba2.head_dim,
      fields.Integer("head_dim", 1, kInnerWidthMax / mamba2.heads, 64));
  config.d_inner = mamba2.heads * mamba2.head_dim;
  ENGRAM_RETURN_IF_ERROR(ReadGroups(fields, "n_groups", 8, &mamba2));
  ENGRAM_RETURN_IF_ERROR(ReadTimeStepLimit(fields, "time_step_limit", &mamba2));
  // Hugging Face's class does not read rms_norm: false takes no norm away that
  // has a tensor.
  ENGRAM_ASSIGN_OR_RETURN(mamba2.gated_norm, fields.Boolean("rms_norm"));
  if (mamba2.gated_norm == false) {
    mamba2.gated_norm.reset();
    config.warnings.push_back(
        absl::StrCat(fields.file_name(),
                     ": rms_norm is false, which Hugging Face's class does "
                     "not read; there is a norm behind the gate if there are "
                     "weights of it"));
  }
  return config;
}

}  // namespace engram
