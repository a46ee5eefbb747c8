// ModelConfig: what a model folder's config.json says about the model, whatever
// the layout of the file (model/config_layouts.h).
//
// Settings that Engram does not have are refused by name; every number is
// bounded, so that nothing computed from a hostile file can overflow.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace engram {

// What mixes tokens in a layer; LoadMixers() has one case for each.
enum class MixerKind { kMamba, kMamba2, kH3, kS4d, kAttention };

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

struct AttentionConfig {
  int64_t heads = 0;
  int64_t kv_heads = 0;  // divides heads
  int64_t head_dim = 0;
  float scale = 0;         // of the scores
  int64_t rotary_dim = 0;  // even, at most head_dim; 0: not rotated
  double rotary_base = 10000;
  int64_t d_conv = 0;  // taps of a convolution over q, k and v; 0: none
  // Nothing: the tensors decide.
  std::optional<bool> qkv_bias;
  std::optional<bool> output_bias;
  // What the layout calls the product to q, k and v.
  const char* qkv_name = "in_proj";

  int64_t q_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
  int64_t qkv_width() const { return q_width() + 2 * kv_width(); }
};

enum class MlpKind {
  kNone,
  kGelu,   // with GELU between its products
  kGated,  // with a gate that goes through SiLU
};

struct MlpConfig {
  MlpKind kind = MlpKind::kNone;
  int64_t width = 0;  // inputs of the second product

  // Outputs of the first.
  int64_t hidden() const { return kind == MlpKind::kGated ? 2 * width : width; }
};

// What a layout calls the tensors of the skeleton.
struct SkeletonNames {
  // Any one of them. State-spaces' layout has the singular, Hugging Face's the
  // plural, and both have been written into each other's folders.
  std::vector<std::string> embeddings = {"backbone.embeddings.weight",
                                         "backbone.embedding.weight"};
  const char* final_norm = "backbone.norm_f";
  const char* mixer_norm = "norm";  // in each layer
};

struct ModelConfig {
  std::string family;  // "mamba", "mamba2", "h3", "s4d", "attention": told only
  std::vector<MixerKind> mixers;  // of the layers, at least one
  int64_t d_model = 0;
  int64_t vocab = 0;      // rows of the embedding matrix, padding included
  int64_t positions = 0;  // rows of learned positions; 0: none
  NormKind norm = NormKind::kRms;  // of all norms but those within mixers
  float norm_epsilon = 1e-5f;
  MlpConfig mlp;
  SkeletonNames names;
  // Whether the head is the embedding matrix.
  bool tied = true;

  // What the file claims about Mamba's mixers. Files in the wild are wrong
  // about these, so a loader takes them from the shapes of the tensors where it
  // can.
  int64_t d_inner = 0;
  int64_t d_state = 0;
  int64_t d_conv = 0;
  int64_t dt_rank = 0;  // not Mamba-2's
  // Whether in_proj and out_proj, and the convolution, have a bias; nothing if
  // the file does not say: then the tensors decide.
  std::optional<bool> projection_bias;
  std::optional<bool> convolution_bias;
  Mamba2Config mamba2;
  // How the diagonal SSM of H3 and S4D is made discrete: by zero-order hold or
  // the bilinear rule.
  bool zero_order_hold = false;
  AttentionConfig attention;

  // The format that matrices are quantised in already, kInt8 or kInt4, by
  // `quantization_config: {"quant_method": "engram", "format": "int8"}`;
  // nothing: they are floats.
  std::optional<WeightFormat> quantised;

  // Of the longest text that it was trained on: our own field trained_tokens,
  // else max_position_embeddings; 0: neither is there.
  int64_t trained_tokens = 0;

  // Distinct, ascending, below vocab (others are ignored with a warning); empty
  // if no file says.
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> bos_token_id;
  // What is odd in the files and was passed over, one sentence each.
  std::vector<std::string> warnings;

  int64_t layers() const { return static_cast<int64_t>(mixers.size()); }
  // Those with mixers of this kind, ascending.
  std::vector<int64_t> LayersWith(MixerKind kind) const;
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
