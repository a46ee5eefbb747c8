#include "server/state_warnings.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace engram {
namespace {

// Of a state's values: so many above kOutlierMedians times their median mean
// that few of them hold most of it.
constexpr double kManyOutliers = 0.25;

}  // namespace

std::vector<std::string> StateWarnings(const std::vector<StateSummary>& states,
                                       int64_t position) {
  std::vector<std::string> warnings;
  for (const StateSummary& state : states) {
    if (state.share_above >= kManyOutliers) {
      warnings.push_back(absl::StrFormat(
          "layer %d: %.1f %% of %s is above %g times its median", state.layer,
          100 * state.share_above, state.state, kOutlierMedians));
    }
  }
  return warnings;
}

}  // namespace engram
