#include "model/model_config.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/config_fields.h"
#include "model/config_layouts.h"
#include "model/foreign_content.h"
#include "model/strict_json.h"

namespace engram {
namespace {

using nlohmann::json;

constexpr size_t kFileBytesMax = 16 << 20;

constexpr char kSupported[] =
    "supported: Mamba and Mamba-2 (model_type \"mamba\" or \"mamba2\", or the "
    "state-spaces layout with ssm_cfg.layer \"Mamba1\" or \"Mamba2\"), H3 and "
    "its baselines (model_type \"h3\", \"s4d\" or \"attention\")";

absl::StatusOr<ModelConfig> ReadLayout(const ConfigFields& fields,
                                       const std::string& file) {
  // Hugging Face's files may carry d_model and n_layer too: model_type first.
  if (const json* type = fields.Find("model_type"); type != nullptr) {
    if (*type == "mamba") return ReadHuggingFaceMamba(fields);
    if (*type == "mamba2") return ReadHuggingFaceMamba2(fields);
    for (const char* family : {"h3", "s4d", "attention"}) {
      if (*type == family) return ReadH3(fields, family);
    }
    return absl::UnimplementedError(absl::StrCat(
        file, ": model_type is ", ShownJson(*type), "; ", kSupported));
  }
  if (fields.Find("d_model") != nullptr && fields.Find("n_layer") != nullptr) {
    return ReadStateSpaces(fields);
  }
  return absl::UnimplementedError(absl::StrCat(
      file, ": neither model_type nor d_model and n_layer; ", kSupported));
}

// How matrices are quantised already: by our own rule, or not at all.
absl::StatusOr<std::optional<WeightFormat>> ReadQuantised(
    const ConfigFields& fields) {
  constexpr char kField[] = "quantization_config";
  const json* const method = fields.Find(kField);
  if (method == nullptr) return std::nullopt;
  if (!method->is_object() ||
      method->value("quant_method", json()) != "engram") {
    return fields.Unsupported(
        kField,
        "the model before it was quantised, as float32, bfloat16 or float16, "
        "or what engram-server --quantize made of it");
  }
  ENGRAM_ASSIGN_OR_RETURN(const ConfigFields quantised, fields.Object(kField));
  for (const WeightFormat format : kWeightFormats) {
    const json* const name = quantised.Find("format");
    if (name == nullptr || *name != WeightFormatName(format)) continue;
    if (IsQuantised(format)) return format;
  }
  return quantised.Bad("format", "\"int8\" or \"int4\"");
}

// Both files may name ends of sequence, and a token that either names ends one.
// Only if neither has the field, those of the layout stand.
absl::Status ReadTokenIds(const ConfigFields& fields,
                          const ConfigFields& generation, ModelConfig* config) {
  const int64_t vocab = config->vocab;
  std::vector<std::string>* warnings = &config->warnings;
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                          fields.TokenIds("eos_token_id", vocab, warnings));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> more,
                          generation.TokenIds("eos_token_id", vocab, warnings));
  if (fields.Names("eos_token_id") || generation.Names("eos_token_id")) {
    ids.insert(ids.end(), more.begin(), more.end());
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    config->eos_token_ids = std::move(ids);
  }
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> bos,
                          fields.TokenIds("bos_token_id", vocab, warnings));
  if (!bos.empty()) config->bos_token_id = bos.front();
  return absl::OkStatus();
}

// What other programs wrote there means nothing if it is no such number.
int64_t TrainedTokens(const ConfigFields& fields) {
  for (const char* const name : {"trained_tokens", "max_position_embeddings"}) {
    const json* const value = fields.Find(name);
    if (value == nullptr || !value->is_number_integer()) continue;
    const auto tokens = value->get<int64_t>();
    if (tokens > 0) return tokens;
  }
  return 0;
}

}  // namespace

std::vector<int64_t> ModelConfig::LayersWith(MixerKind kind) const {
  std::vector<int64_t> layers;
  for (size_t i = 0; i < mixers.size(); ++i) {
    if (mixers[i] == kind) layers.push_back(static_cast<int64_t>(i));
  }
  return layers;
}

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_text,
                                             std::string_view generation_text,
                                             const std::string& folder) {
  const std::string file = absl::StrCat(folder, "/config.json");
  ENGRAM_ASSIGN_OR_RETURN(const json object,
                          ParseConfigObject(config_text, file));
  const ConfigFields fields(file, object);
  ENGRAM_ASSIGN_OR_RETURN(const std::optional<WeightFormat> quantised,
                          ReadQuantised(fields));
  ENGRAM_ASSIGN_OR_RETURN(ModelConfig config, ReadLayout(fields, file));
  config.quantised = quantised;
  config.trained_tokens = TrainedTokens(fields);

  const std::string generation_file =
      absl::StrCat(folder, "/generation_config.json");
  json generation_object = json::object();
  if (!generation_text.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(
        generation_object, ParseConfigObject(generation_text, generation_file));
  }
  ENGRAM_RETURN_IF_ERROR(ReadTokenIds(
      fields, ConfigFields(generation_file, generation_object), &config));
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
