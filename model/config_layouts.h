// The layouts of config.json, one file each. All read what there is into a
// ModelConfig, but for the token ids of generation_config.json; eos_token_ids
// are those that stand if no file names any. Errors as for LoadModelConfig().
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "model/config_fields.h"
#include "model/model_config.h"

namespace engram {

// Hugging Face's (model/hugging_face_config.cc): model_type "mamba", "mamba2".
absl::StatusOr<ModelConfig> ReadHuggingFaceMamba(const ConfigFields& fields);
absl::StatusOr<ModelConfig> ReadHuggingFaceMamba2(const ConfigFields& fields);

// The original one of state-spaces (model/state_spaces_config.cc): d_model,
// n_layer, ssm_cfg, attn_cfg.
absl::StatusOr<ModelConfig> ReadStateSpaces(const ConfigFields& fields);

// That of H3 and of the baselines in its skeleton (model/h3_config.cc).
// `family` is the model_type: "h3", "s4d" or "attention".
absl::StatusOr<ModelConfig> ReadH3(const ConfigFields& fields,
                                   const std::string& family);

}  // namespace engram
