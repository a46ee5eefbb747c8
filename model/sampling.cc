#include "model/sampling.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

absl::Status OutOfRange(const std::string& field, float value,
                        const std::string& limits) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, ", must be in ", limits));
}

// The comparisons are written so that NaN fails them.
absl::Status CheckWithin(const std::string& field, float value, float low,
                         float high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return OutOfRange(field, value, absl::StrCat("[", low, ", ", high, "]"));
}

absl::Status CheckPositive(const std::string& field, float value, float high) {
  if (value > 0 && value <= high) return absl::OkStatus();
  return OutOfRange(field, value, absl::StrCat("(0, ", high, "]"));
}

absl::Status CheckBias(const std::map<int32_t, float>& logit_bias,
                       int64_t ids) {
  for (const auto& [id, bias] : logit_bias) {
    if (id < 0 || id >= ids) {
      return absl::InvalidArgumentError(absl::StrCat(
          "logit_bias has id ", id, ", must be in [0, ", ids - 1, "]"));
    }
    ENGRAM_RETURN_IF_ERROR(
        CheckWithin(absl::StrCat("logit_bias of id ", id), bias, -100, 100));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const SamplingParameters& parameters, int64_t ids) {
  ENGRAM_RETURN_IF_ERROR(
      CheckWithin("temperature", parameters.temperature, 0, 100));
  if (parameters.top_k < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", parameters.top_k, ", must be at least 0"));
  }
  ENGRAM_RETURN_IF_ERROR(CheckPositive("top_p", parameters.top_p, 1));
  ENGRAM_RETURN_IF_ERROR(CheckWithin("min_p", parameters.min_p, 0, 1));
  ENGRAM_RETURN_IF_ERROR(
      CheckPositive("repetition_penalty", parameters.repetition_penalty, 100));
  ENGRAM_RETURN_IF_ERROR(
      CheckWithin("presence_penalty", parameters.presence_penalty, -100, 100));
  ENGRAM_RETURN_IF_ERROR(CheckWithin("frequency_penalty",
                                     parameters.frequency_penalty, -100, 100));
  return CheckBias(parameters.logit_bias, ids);
}

}  // namespace engram
