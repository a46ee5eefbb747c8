// ModelConfig: what a model folder's config.json says about the model.
//
// Three layouts are understood: Hugging Face's (model_type "mamba" or
// "mamba2"), the original state-spaces one (d_model, n_layer, ssm_cfg), and
// that of H3 and the baselines in its skeleton (model_type "h3", "s4d" or
// "attention"). Settings that Engram does not have are refused by name; every
// number is bounded, so that nothing computed from a hostile file can overflow.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace engram {

// The families that can be loaded; LoadModel() has one case for each.
enum class ModelFamily { kMamba, kMamba2, kH3, kS4d, kAttention };

// "mamba", "mamba2", "h3", "s4d", "attention": the name in ModelInfo.
const char* ModelFamilyName(ModelFamily family);

// What only Mamba-2 has. No tensor tells how its channels are divided, so that
// the loader takes these numbers from here and refuses tensors that disagree.
struct Mamba2Config {
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t groups = 0;  // divides heads
  // Bounds of the scan's step; dt_max may be infinity.
  float dt_min = 0;
  float dt_max = std::numeric_limits<float>::infinity();
  // Whether a norm follows the gate; nothing if the file does not say: then the
  // tensors decide.
  std::optional<bool> gated_norm;
};

// What only H3 and the baselines in its skeleton have.
struct MixerStackConfig {
  int64_t mlp_width = 0;                  // 0: the layers have no MLP
  std::vector<int64_t> attention_layers;  // ascending
  int64_t heads = 0;       // of attention layers; divides d_model
  int64_t rotary_dim = 0;  // even, at most a head's width; 0: not rotated
  int64_t positions = 0;   // rows of learned positions; 0: none
  // How the diagonal SSM is made discrete: by the bilinear rule or zero-order
  // hold.
  bool zero_order_hold = false;
};

struct ModelConfig {
  ModelFamily family = ModelFamily::kMamba;
  int64_t layers = 0;
  int64_t d_model = 0;
  int64_t vocab = 0;  // rows of the embedding matrix, padding included
  // What the file claims about the mixer. Files in the wild are wrong about
  // these, so a loader takes them from the shapes of the tensors where it can.
  int64_t d_inner = 0;
  int64_t d_state = 0;
  int64_t d_conv = 0;
  int64_t dt_rank = 0;  // Mamba only
  Mamba2Config mamba2;
  MixerStackConfig mixers;
  float norm_epsilon = 1e-5f;
  // Whether in_proj and out_proj, and the convolution, have a bias; nothing if
  // the file does not say: then the tensors decide.
  std::optional<bool> projection_bias;
  std::optional<bool> convolution_bias;
  // Whether the head is the embedding matrix.
  bool tied = true;
  // Distinct, ascending, below vocab (others are ignored with a warning); empty
  // if no file says.
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> bos_token_id;
  // What is odd in the files and was passed over, one sentence each.
  std::vector<std::string> warnings;

  // Whether the family is H3 or a baseline in its skeleton.
  bool has_mixer_stack() const {
    return family == ModelFamily::kH3 || family == ModelFamily::kS4d ||
           family == ModelFamily::kAttention;
  }
};

// Reads config.json of `folder`, and the end-of-sequence ids of
// generation_config.json if there is one. NOT_FOUND: no config.json;
// DATA_LOSS: damaged, or a value out of its limits (the message names file,
// field, value and limits); UNIMPLEMENTED: another architecture or a setting
// that is not supported, by name.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& folder);

// The same from the texts of the two files; `generation_text` may be empty.
// `folder` is for messages only.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_text,
                                             std::string_view generation_text,
                                             const std::string& folder);

}  // namespace engram
