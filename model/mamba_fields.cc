#include "model/mamba_fields.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

using nlohmann::json;

constexpr double kTimeStepMax = 1e6;  // of the lower dt limit
constexpr double kExpandMin = 1e-3;
constexpr double kExpandMax = 64;

// The end of a range, infinity included.
std::optional<double> RangeEnd(const json& value) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (value == json{{"__float__", "Infinity"}}) return kInfinity;
  if (value == json{{"__float__", "-Infinity"}}) return -kInfinity;
  if (!value.is_number()) return {};
  return value.get<double>();
}

}  // namespace

absl::StatusOr<int64_t> ReadDtRank(const ConfigFields& fields, const char* name,
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
absl::StatusOr<int64_t> ReadInnerWidth(const ConfigFields& fields,
                                       int64_t d_model) {
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

absl::Status ReadTimeStepLimit(const ConfigFields& fields, const char* name,
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

absl::Status ReadGroups(const ConfigFields& fields, const char* name,
                        int64_t missing, Mamba2Config* config) {
  ENGRAM_ASSIGN_OR_RETURN(config->groups,
                          fields.Integer(name, 1, kHeadsMax, missing));
  if (config->heads % config->groups == 0) return absl::OkStatus();
  return fields.Bad(name,
                    absl::StrCat("a divisor of ", config->heads, " heads"));
}

}  // namespace engram
