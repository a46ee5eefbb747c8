// The fields of Mamba and Mamba-2 that mean the same in all layouts of
// config.json under other names. Errors as for LoadModelConfig().
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/config_fields.h"
#include "model/model_config.h"

namespace engram {

// "auto" and a missing field mean ceil(d_model / 16).
absl::StatusOr<int64_t> ReadDtRank(const ConfigFields& fields, const char* name,
                                   int64_t d_model);

// d_inner by the field "expand".
absl::StatusOr<int64_t> ReadInnerWidth(const ConfigFields& fields,
                                       int64_t d_model);

// The bounds of Δ; [0, infinity] if the field is missing.
absl::Status ReadTimeStepLimit(const ConfigFields& fields, const char* name,
                               Mamba2Config* config);

// The number of groups, each of which has the same number of heads.
absl::Status ReadGroups(const ConfigFields& fields, const char* name,
                        int64_t missing, Mamba2Config* config);

}  // namespace engram
