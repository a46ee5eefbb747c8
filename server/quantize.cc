#include "server/quantize.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "server/flag_values.h"

namespace engram {
namespace {

constexpr char kUse[] =
    "weights are quantised by --quantize FOLDER --into FOLDER --weights "
    "int8|int4";

}  // namespace

bool AsksToQuantize(const std::vector<std::string>& arguments) {
  return HasFlag(arguments, "--quantize");
}

absl::StatusOr<QuantizeTask> ReadQuantizeTask(
    const std::vector<std::string>& arguments) {
  ENGRAM_ASSIGN_OR_RETURN(
      auto flags,
      ReadFlagValues(arguments, {"--quantize", "--into", "--weights"}, kUse));
  for (const char* const flag : {"into", "weights"}) {
    if (flags.contains(flag)) continue;
    return BadUse(absl::StrCat("--", flag, " is missing"), kUse);
  }
  const std::optional<WeightFormat> format = FindWeightFormat(flags["weights"]);
  if (!format.has_value() || !IsQuantised(*format)) {
    return BadUse(absl::StrCat("--weights is \"", flags["weights"], "\""),
                  kUse);
  }
  return QuantizeTask{flags["quantize"], *format, flags["into"]};
}

}  // namespace engram
