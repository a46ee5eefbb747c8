#include "model/model_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/foreign_content.h"
#include "model/strict_json.h"
#include "nlohmann/json.hpp"

namespace engram {
namespace {

using nlohmann::json;

constexpr size_t kFileBytesMax = 16 << 20;

// Bounds of every number: far above any model there is, and small enough that
// products of any three of them fit in 64 bits.
constexpr int64_t kLayersMax = 1024;
constexpr int64_t kWidthMax = 1 << 16;       // d_model, dt_rank
constexpr int64_t kInnerWidthMax = 1 << 20;  // d_inner
constexpr int64_t kVocabMax = 1 << 24;
constexpr int64_t kStateMax = 4096;       // d_state
constexpr int64_t kConvolutionMax = 256;  // d_conv
constexpr int64_t kPaddingMax = 1 << 16;  // pad_vocab_size_multiple
constexpr int64_t kHeadsMax = 1 << 16;    // heads, groups
constexpr double kTimeStepMax = 1e6;      // of the lower dt limit
constexpr double kExpandMin = 1e-3;
constexpr double kExpandMax = 64;
constexpr double kEpsilonMin = 1e-12;  // a float that is not 0

constexpr int64_t kPositionsMax = 1 << 24;

constexpr char kSupported[] =
    "supported: Mamba and Mamba-2 (model_type \"mamba\" or \"mamba2\", or the "
    "state-spaces layout with ssm_cfg.layer \"Mamba1\" or \"Mamba2\"), H3 and "
    "its baselines (model_type \"h3\", \"s4d\" or \"attention\")";

// Python writes Infinity and NaN bare, which is not JSON. They are turned into
// the form that newer transformers write, {"__float__": "Infinity"}, outside
// of strings only.
std::string WrapBareNonFinite(std::string_view text) {
  std::string wrapped;
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    size_t length = 1;
    bool bare = false;
    if (in_string) {
      if (text[i] == '\\' && i + 1 < text.size()) length = 2;
    } else {
      for (std::string_view word : {"-Infinity", "Infinity", "NaN"}) {
        if (text.substr(i, word.size()) != word) continue;
        length = word.size();
        bare = true;
        break;
      }
    }
    if (text[i] == '"') in_string = !in_string;
    const std::string_view piece = text.substr(i, length);
    if (bare) {
      wrapped.append("{\"__float__\": \"").append(piece).append("\"}");
    } else {
      wrapped.append(piece);
    }
    i += length;
  }
  return wrapped;
}

// A JSON value for an error message, on one line and not too long.
std::string Shown(const json& value) {
  const std::string text =
      value.dump(-1, ' ', true, json::error_handler_t::replace);
  constexpr size_t kShownBytes = 100;
  if (text.size() <= kShownBytes) return text;
  return absl::StrCat(text.substr(0, kShownBytes), "...");
}

// One JSON object whose fields are read with checks; errors carry the file and
// the field. Null is the same as missing, as it is for the Python classes.
class Fields {
 public:
  // `object` must be an object and outlive this.
  Fields(std::string file, const json& object)
      : file_(std::move(file)), object_(object) {}

  const json* Find(const char* name) const {
    const auto found = object_.find(name);
    if (found == object_.end() || found->is_null()) return nullptr;
    return &*found;
  }

  // For warnings, which clients read too: the folder is nobody else's business.
  std::string file_name() const { return file_.substr(file_.rfind('/') + 1); }

  // Whether the field is there, null included.
  bool Names(const char* name) const { return object_.contains(name); }

  absl::Status Bad(const char* name, const std::string& expected) const {
    return absl::DataLossError(absl::StrCat(
        file_, ": ", name, " is ", ShownField(name), ", expected ", expected));
  }

  absl::Status Unsupported(const char* name, const char* supported) const {
    return absl::UnimplementedError(absl::StrCat(file_, ": ", name, " is ",
                                                 ShownField(name),
                                                 "; supported: ", supported));
  }

  // An integer in [low, high]; `missing` if the field is not there, and without
  // one the field is required.
  absl::StatusOr<int64_t> Integer(const char* name, int64_t low, int64_t high,
                                  std::optional<int64_t> missing) const {
    const json* value = Find(name);
    if (value == nullptr) {
      if (missing.has_value()) return *missing;
      return absl::DataLossError(
          absl::StrCat(file_, ": ", name, " is missing"));
    }
    const bool fits = value->is_number_integer() &&
                      !(value->is_number_unsigned() &&
                        value->get<uint64_t>() >
                            uint64_t{std::numeric_limits<int64_t>::max()}) &&
                      value->get<int64_t>() >= low &&
                      value->get<int64_t>() <= high;
    if (fits) return value->get<int64_t>();
    return Bad(name, absl::StrCat("an integer from ", low, " to ", high));
  }

  // A number in [low, high], where low is above 0; `missing` if it is not
  // there.
  absl::StatusOr<double> Number(const char* name, double low, double high,
                                double missing) const {
    const json* value = Find(name);
    if (value == nullptr) return missing;
    const double number = value->is_number() ? value->get<double>() : 0;
    if (number >= low && number <= high) return number;
    return Bad(name, absl::StrCat("a number from ", low, " to ", high));
  }

  // A boolean, or nothing if it is not there.
  absl::StatusOr<std::optional<bool>> Boolean(const char* name) const {
    const json* value = Find(name);
    if (value == nullptr) return std::optional<bool>();
    if (!value->is_boolean()) return Bad(name, "true or false");
    return std::optional<bool>(value->get<bool>());
  }

  // A token id, a list of them, or nothing if it is not there. An id that no
  // row stands for, -1 among them, can never come up: it is left out, with a
  // warning.
  absl::StatusOr<std::vector<int32_t>> TokenIds(
      const char* name, int64_t vocab,
      std::vector<std::string>* warnings) const {
    std::vector<int32_t> ids;
    const json* value = Find(name);
    if (value == nullptr) return ids;
    const json list = value->is_array() ? *value : json::array({*value});
    for (const json& id : list) {
      if (!id.is_number_integer()) {
        return Bad(name, absl::StrCat("token ids from 0 to ", vocab - 1));
      }
      if (!id.is_number_unsigned() ||
          id.get<uint64_t>() >= static_cast<uint64_t>(vocab)) {
        warnings->push_back(absl::StrCat(
            file_name(), ": ", name, " has ", Shown(id),
            ", which is ignored: the ", "model has ids from 0 to ", vocab - 1));
        continue;
      }
      ids.push_back(id.get<int32_t>());
    }
    return ids;
  }

 private:
  std::string ShownField(const char* name) const {
    const json* value = Find(name);
    return value == nullptr ? "missing" : Shown(*value);
  }

  const std::string file_;
  const json& object_;
};

// "auto" and a missing field mean ceil(d_model / 16).
absl::StatusOr<int64_t> ReadDtRank(const Fields& fields, const char* name,
                                   int64_t d_model) {
  const json* value = fields.Find(name);
  if (value != nullptr && value->is_string()) {
    if (*value != "auto") return fields.Bad(name, "\"auto\" or an integer");
  } else if (value != nullptr) {
    return fields.Integer(name, 1, kWidthMax, std::nullopt);
  }
  return (d_model + 15) / 16;
}

// expand may be a fraction; the product is cut, not rounded.
absl::StatusOr<int64_t> ReadInnerWidth(const Fields& fields, int64_t d_model) {
  ENGRAM_ASSIGN_OR_RETURN(const double expand,
                          fields.Number("expand", kExpandMin, kExpandMax, 2));
  const auto d_inner = static_cast<int64_t>(expand * d_model);
  if (d_inner < 1 || d_inner > kInnerWidthMax) {
    return fields.Bad(
        "expand", absl::StrCat("a d_inner from 1 to ", kInnerWidthMax, ", not ",
                               d_inner));
  }
  return d_inner;
}

// What Hugging Face's classes take for fields that are missing.
struct ClassDefaults {
  int64_t vocab;
  int64_t d_model;
  int64_t layers;
  int64_t d_state;
  bool tied;
};
constexpr ClassDefaults kMambaDefaults = {50280, 768, 32, 16, true};
constexpr ClassDefaults kMamba2Defaults = {32768, 4096, 64, 128, false};

// What both families have in the layout of Hugging Face. Its field d_inner is
// never read: it is wrong in some published files.
absl::StatusOr<ModelConfig> ReadHuggingFace(const Fields& fields,
                                            const ClassDefaults& defaults) {
  ModelConfig config;
  const json* activation = fields.Find("hidden_act");
  if (activation != nullptr && *activation != "silu" &&
      *activation != "swish") {
    return fields.Unsupported("hidden_act", "\"silu\", \"swish\"");
  }
  ENGRAM_ASSIGN_OR_RETURN(
      config.vocab, fields.Integer("vocab_size", 1, kVocabMax, defaults.vocab));
  ENGRAM_ASSIGN_OR_RETURN(
      config.d_model,
      fields.Integer("hidden_size", 1, kWidthMax, defaults.d_model));
  ENGRAM_ASSIGN_OR_RETURN(
      config.layers,
      fields.Integer("num_hidden_layers", 1, kLayersMax, defaults.layers));
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
  return config;
}

absl::StatusOr<ModelConfig> ReadHuggingFaceMamba(const Fields& fields) {
  ENGRAM_ASSIGN_OR_RETURN(ModelConfig config,
                          ReadHuggingFace(fields, kMambaDefaults));
  ENGRAM_ASSIGN_OR_RETURN(config.d_inner,
                          ReadInnerWidth(fields, config.d_model));
  ENGRAM_ASSIGN_OR_RETURN(config.dt_rank,
                          ReadDtRank(fields, "time_step_rank", config.d_model));
  return config;
}

// The end of a range, infinity included.
std::optional<double> RangeEnd(const json& value) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (value == json{{"__float__", "Infinity"}}) return kInfinity;
  if (value == json{{"__float__", "-Infinity"}}) return -kInfinity;
  if (!value.is_number()) return {};
  return value.get<double>();
}

// [0, infinity] if the field is missing.
absl::Status ReadTimeStepLimit(const Fields& fields, const char* name,
                               Mamba2Config* config) {
  const json* limit = fields.Find(name);
  if (limit == nullptr) return absl::OkStatus();
  std::optional<double> low, high;
  if (limit->is_array() && limit->size() == 2) {
    low = RangeEnd(limit->at(0));
    high = RangeEnd(limit->at(1));
  }
  if (!low.has_value() || !high.has_value() || *low > *high || *high < 0 ||
      *low > kTimeStepMax) {
    return fields.Bad(name,
                      absl::StrCat("[low, high] with low <= high, low at most ",
                                   kTimeStepMax, ", and high from 0 on"));
  }
  // A step is never negative, and what is beyond all floats bounds none.
  config->dt_min = static_cast<float>(std::max(*low, 0.0));
  config->dt_max = *high > std::numeric_limits<float>::max()
                       ? std::numeric_limits<float>::infinity()
                       : static_cast<float>(*high);
  return absl::OkStatus();
}

// The number of groups, each of which has the same number of heads.
absl::Status ReadGroups(const Fields& fields, const char* name, int64_t missing,
                        Mamba2Config* config) {
  ENGRAM_ASSIGN_OR_RETURN(config->groups,
                          fields.Integer(name, 1, kHeadsMax, missing));
  if (config->heads % config->groups == 0) return absl::OkStatus();
  return fields.Bad(name,
                    absl::StrCat("a divisor of ", config->heads, " heads"));
}

// expand is not read: the heads' channels are the inner width. Nor is
// norm_before_gate, which some published files set and Hugging Face's class
// ignores: the gate always comes first.
absl::StatusOr<ModelConfig> ReadHuggingFaceMamba2(const Fields& fields) {
  ENGRAM_ASSIGN_OR_RETURN(ModelConfig config,
                          ReadHuggingFace(fields, kMamba2Defaults));
  config.family = ModelFamily::kMamba2;
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

// Layers that mix tokens by softmax attention: of an "attention" all, of H3
// those in attn_layer_idx.
absl::Status ReadAttentionLayers(const Fields& fields, ModelConfig* config) {
  std::vector<int64_t>& layers = config->mixers.attention_layers;
  if (config->family == ModelFamily::kAttention) {
    for (int64_t i = 0; i < config->layers; ++i) layers.push_back(i);
    return absl::OkStatus();
  }
  const json* list = fields.Find("attn_layer_idx");
  if (list == nullptr) return absl::OkStatus();
  const std::string expected =
      absl::StrCat("a list of distinct layers from 0 to ", config->layers - 1);
  if (!list->is_array()) return fields.Bad("attn_layer_idx", expected);
  for (const json& layer : *list) {
    const bool fits =
        layer.is_number_unsigned() &&
        layer.get<uint64_t>() < static_cast<uint64_t>(config->layers);
    if (!fits) return fields.Bad("attn_layer_idx", expected);
    layers.push_back(layer.get<int64_t>());
  }
  std::sort(layers.begin(), layers.end());
  if (std::adjacent_find(layers.begin(), layers.end()) != layers.end()) {
    return fields.Bad("attn_layer_idx", expected);
  }
  if (config->family == ModelFamily::kS4d && !layers.empty()) {
    return fields.Unsupported("attn_layer_idx", "[]");
  }
  return absl::OkStatus();
}

absl::Status ReadAttention(const Fields& fields, ModelConfig* config) {
  MixerStackConfig& mixers = config->mixers;
  ENGRAM_RETURN_IF_ERROR(ReadAttentionLayers(fields, config));
  if (mixers.attention_layers.empty()) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(
      mixers.heads,
      fields.Integer("num_attention_heads", 1, kHeadsMax, std::nullopt));
  if (config->d_model % mixers.heads != 0) {
    return fields.Bad(
        "num_attention_heads",
        absl::StrCat("a divisor of hidden_size ", config->d_model));
  }
  const int64_t head_dim = config->d_model / mixers.heads;
  ENGRAM_ASSIGN_OR_RETURN(mixers.rotary_dim,
                          fields.Integer("rotary_emb_dim", 0, head_dim, 0));
  if (mixers.rotary_dim % 2 != 0) {
    return fields.Bad("rotary_emb_dim",
                      absl::StrCat("an even number up to ", head_dim));
  }
  return absl::OkStatus();
}

// Which diagonal SSM the layers have, if any.
absl::Status ReadDiagonalSsm(const Fields& fields, ModelConfig* config) {
  const json* mode = fields.Find("ssm_mode");
  if (mode != nullptr && *mode != "diag") {
    return fields.Unsupported("ssm_mode", "\"diag\"");
  }
  // S4D is defined by zero-order hold.
  const bool is_s4d = config->family == ModelFamily::kS4d;
  config->mixers.zero_order_hold = is_s4d;
  const json* rule = fields.Find("ssm_disc");
  if (rule == nullptr) return absl::OkStatus();
  if (*rule == "zoh") {
    config->mixers.zero_order_hold = true;
    return absl::OkStatus();
  }
  if (*rule == "bilinear" && !is_s4d) return absl::OkStatus();
  return fields.Unsupported("ssm_disc",
                            is_s4d ? "\"zoh\"" : "\"bilinear\", \"zoh\"");
}

// H3 and the baselines in its skeleton. The fields are those of H3's code and
// of GPT-2 in Hugging Face's transformers.
absl::StatusOr<ModelConfig> ReadMixerStack(const Fields& fields,
                                           ModelFamily family) {
  ModelConfig config;
  config.family = family;
  ENGRAM_ASSIGN_OR_RETURN(
      config.vocab, fields.Integer("vocab_size", 1, kVocabMax, std::nullopt));
  ENGRAM_ASSIGN_OR_RETURN(
      config.d_model,
      fields.Integer("hidden_size", 1, kWidthMax, std::nullopt));
  ENGRAM_ASSIGN_OR_RETURN(
      config.layers,
      fields.Integer("num_hidden_layers", 1, kLayersMax, std::nullopt));
  ENGRAM_ASSIGN_OR_RETURN(
      config.mixers.mlp_width,
      fields.Integer("n_inner", 0, kInnerWidthMax, 4 * config.d_model));
  ENGRAM_ASSIGN_OR_RETURN(
      config.norm_epsilon,
      fields.Number("layer_norm_epsilon", kEpsilonMin, 1, 1e-5));
  ENGRAM_ASSIGN_OR_RETURN(const std::optional<bool> tied,
                          fields.Boolean("tie_word_embeddings"));
  config.tied = tied.value_or(true);
  ENGRAM_RETURN_IF_ERROR(ReadAttention(fields, &config));
  ENGRAM_RETURN_IF_ERROR(ReadDiagonalSsm(fields, &config));
  ENGRAM_ASSIGN_OR_RETURN(
      config.mixers.positions,
      fields.Integer("max_position_embeddings", 0, kPositionsMax, 0));
  // Only attention keeps count of positions; H3 and S4D have no use for them.
  if (config.mixers.positions > 0 && family != ModelFamily::kAttention) {
    return fields.Unsupported("max_position_embeddings", "0");
  }
  return config;
}

// Settings of the original layout that change the mathematics.
absl::Status RefuseUnsupported(const Fields& fields) {
  const json* intermediate = fields.Find("d_intermediate");
  if (intermediate != nullptr && *intermediate != 0) {
    return fields.Unsupported("d_intermediate", "0");
  }
  const json* attention = fields.Find("attn_layer_idx");
  if (attention != nullptr && *attention != json::array()) {
    return fields.Unsupported("attn_layer_idx", "[]");
  }
  const json* rms_norm = fields.Find("rms_norm");
  if (rms_norm != nullptr && *rms_norm != true) {
    return fields.Unsupported("rms_norm", "true");
  }
  return absl::OkStatus();
}

// The same within ssm_cfg of a Mamba-2.
absl::Status RefuseUnsupportedMamba2(const Fields& mixer, int64_t d_inner) {
  for (const char* name : {"D_has_hdim", "norm_before_gate"}) {
    const json* value = mixer.Find(name);
    if (value != nullptr && *value != false) {
      return mixer.Unsupported(name, "false");
    }
  }
  const json* activation = mixer.Find("activation");
  if (activation != nullptr && *activation != "swish" &&
      *activation != "silu") {
    return mixer.Unsupported("activation", "\"swish\", \"silu\"");
  }
  const json* scanned = mixer.Find("d_ssm");
  if (scanned != nullptr && *scanned != d_inner) {
    return mixer.Unsupported("d_ssm", absl::StrCat(d_inner).c_str());
  }
  return absl::OkStatus();
}

absl::Status ReadStateSpacesMamba2(const Fields& mixer, ModelConfig* config) {
  config->family = ModelFamily::kMamba2;
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

// The mixer's numbers, which ssm_cfg overrides.
absl::Status ReadStateSpacesMixer(const Fields& mixer, ModelConfig* config) {
  const json* layer = mixer.Find("layer");
  const bool is_mamba2 = layer != nullptr && *layer == "Mamba2";
  if (layer != nullptr && *layer != "Mamba1" && !is_mamba2) {
    return mixer.Unsupported("layer", "\"Mamba1\", \"Mamba2\"");
  }
  ENGRAM_ASSIGN_OR_RETURN(
      config->d_state,
      mixer.Integer("d_state", 1, kStateMax, is_mamba2 ? 128 : 16));
  ENGRAM_ASSIGN_OR_RETURN(config->d_conv,
                          mixer.Integer("d_conv", 2, kConvolutionMax, 4));
  ENGRAM_ASSIGN_OR_RETURN(config->d_inner,
                          ReadInnerWidth(mixer, config->d_model));
  ENGRAM_ASSIGN_OR_RETURN(config->projection_bias, mixer.Boolean("bias"));
  ENGRAM_ASSIGN_OR_RETURN(config->convolution_bias, mixer.Boolean("conv_bias"));
  if (is_mamba2) return ReadStateSpacesMamba2(mixer, config);
  ENGRAM_ASSIGN_OR_RETURN(config->dt_rank,
                          ReadDtRank(mixer, "dt_rank", config->d_model));
  return absl::OkStatus();
}

// The original layout: its vocab_size does not count the padding, and its norms
// have no epsilon to set.
absl::StatusOr<ModelConfig> ReadStateSpaces(const Fields& fields,
                                            const std::string& file) {
  ModelConfig config;
  const json none = json::object();
  const json* ssm = fields.Find("ssm_cfg");
  if (ssm == nullptr) ssm = &none;
  if (!ssm->is_object()) return fields.Bad("ssm_cfg", "an object");
  ENGRAM_RETURN_IF_ERROR(RefuseUnsupported(fields));

  ENGRAM_ASSIGN_OR_RETURN(
      const int64_t ids,
      fields.Integer("vocab_size", 1, kVocabMax, std::nullopt));
  ENGRAM_ASSIGN_OR_RETURN(
      const int64_t multiple,
      fields.Integer("pad_vocab_size_multiple", 1, kPaddingMax, 8));
  config.vocab = (ids + multiple - 1) / multiple * multiple;
  ENGRAM_ASSIGN_OR_RETURN(
      config.d_model, fields.Integer("d_model", 1, kWidthMax, std::nullopt));
  ENGRAM_ASSIGN_OR_RETURN(
      config.layers, fields.Integer("n_layer", 1, kLayersMax, std::nullopt));
  ENGRAM_RETURN_IF_ERROR(ReadStateSpacesMixer(
      Fields(absl::StrCat(file, ": ssm_cfg"), *ssm), &config));
  ENGRAM_ASSIGN_OR_RETURN(const std::optional<bool> tied,
                          fields.Boolean("tie_embeddings"));
  config.tied = tied.value_or(true);
  return config;
}

absl::StatusOr<ModelConfig> ReadFamily(const Fields& fields,
                                       const std::string& file) {
  if (fields.Find("quantization_config") != nullptr) {
    return fields.Unsupported("quantization_config",
                              "the model before it was quantised, as float32, "
                              "bfloat16 or float16");
  }
  // Hugging Face's files may carry d_model and n_layer too: model_type first.
  if (const json* type = fields.Find("model_type"); type != nullptr) {
    if (*type == "mamba") return ReadHuggingFaceMamba(fields);
    if (*type == "mamba2") return ReadHuggingFaceMamba2(fields);
    for (const ModelFamily family :
         {ModelFamily::kH3, ModelFamily::kS4d, ModelFamily::kAttention}) {
      if (*type == ModelFamilyName(family)) {
        return ReadMixerStack(fields, family);
      }
    }
    return absl::UnimplementedError(
        absl::StrCat(file, ": model_type is ", Shown(*type), "; ", kSupported));
  }
  if (fields.Find("d_model") != nullptr && fields.Find("n_layer") != nullptr) {
    return ReadStateSpaces(fields, file);
  }
  return absl::UnimplementedError(absl::StrCat(
      file, ": neither model_type nor d_model and n_layer; ", kSupported));
}

absl::StatusOr<json> ParseObject(std::string_view text,
                                 const std::string& file) {
  ENGRAM_ASSIGN_OR_RETURN(json value,
                          ParseStrictJson(WrapBareNonFinite(text), file));
  if (!value.is_object()) {
    return absl::DataLossError(absl::StrCat(file, ": not a JSON object"));
  }
  return value;
}

// Both files may name ends of sequence, and a token that either names ends one.
// Only if neither has the field, the default of Hugging Face's class stands.
absl::Status ReadTokenIds(const Fields& fields, const Fields& generation,
                          ModelConfig* config) {
  const int64_t vocab = config->vocab;
  std::vector<std::string>* warnings = &config->warnings;
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                          fields.TokenIds("eos_token_id", vocab, warnings));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> more,
                          generation.TokenIds("eos_token_id", vocab, warnings));
  ids.insert(ids.end(), more.begin(), more.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  const bool is_hugging_face = fields.Find("model_type") != nullptr;
  if (is_hugging_face && !config->has_mixer_stack() &&
      !fields.Names("eos_token_id") && !generation.Names("eos_token_id")) {
    const int32_t missing = config->family == ModelFamily::kMamba2 ? 2 : 0;
    if (missing < config->vocab) ids.push_back(missing);
  }
  config->eos_token_ids = std::move(ids);
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> bos,
                          fields.TokenIds("bos_token_id", vocab, warnings));
  if (!bos.empty()) config->bos_token_id = bos.front();
  return absl::OkStatus();
}

}  // namespace

const char* ModelFamilyName(ModelFamily family) {
  switch (family) {
    case ModelFamily::kMamba:
      return "mamba";
    case ModelFamily::kMamba2:
      return "mamba2";
    case ModelFamily::kH3:
      return "h3";
    case ModelFamily::kS4d:
      return "s4d";
    case ModelFamily::kAttention:
      return "attention";
  }
  return "unknown";
}

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_text,
                                             std::string_view generation_text,
                                             const std::string& folder) {
  const std::string file = absl::StrCat(folder, "/config.json");
  ENGRAM_ASSIGN_OR_RETURN(const json object, ParseObject(config_text, file));
  const Fields fields(file, object);
  ENGRAM_ASSIGN_OR_RETURN(ModelConfig config, ReadFamily(fields, file));

  const std::string generation_file =
      absl::StrCat(folder, "/generation_config.json");
  json generation_object = json::object();
  if (!generation_text.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(generation_object,
                            ParseObject(generation_text, generation_file));
  }
  ENGRAM_RETURN_IF_ERROR(ReadTokenIds(
      fields, Fields(generation_file, generation_object), &config));
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& folder) {
  const absl::StatusOr<std::string> config_text =
      ReadSmallFile(absl::StrCat(folder, "/config.json"), kFileBytesMax);
  if (absl::IsNotFound(config_text.status())) {
    return NoModelFolder(folder, "no config.json", "config.json is not there");
  }
  ENGRAM_RETURN_IF_ERROR(config_text.status());
  absl::StatusOr<std::string> generation_text = ReadSmallFile(
      absl::StrCat(folder, "/generation_config.json"), kFileBytesMax);
  if (absl::IsNotFound(generation_text.status())) generation_text = "";
  ENGRAM_RETURN_IF_ERROR(generation_text.status());
  return ParseModelConfig(*config_text, *generation_text, folder);
}

}  // namespace engram
