#include "server/state_warnings.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace engram {
namespace {

// Of a state's values. Sound states of trained models have up to an eighth, as
// most of what is in them has faded.
constexpr double kManyOutliers = 0.25;

}  // namespace

std::vector<std::string> StateWarnings(const std::vector<StateSummary>& states,
                                       int64_t position,
                                       int64_t trained_tokens) {
  std::vector<std::string> warnings;
  if (trained_tokens > 0 && position > trained_tokens) {
    warnings.push_back(absl::StrFormat(
        "the session has read %d tokens, %.3g times the longest text that the "
        "model was trained on (%d): it has never been this far",
        position,
        static_cast<double>(position) / static_cast<double>(trained_tokens),
        trained_tokens));
  }
  for (const StateSummary& state : states) {
    if (state.share_above < kManyOutliers) continue;
    warnings.push_back(absl::StrFormat(
        "layer %d: %.1f %% of %s are above %g times its median: few values "
        "hold most of it, and what is written beside them is lost",
        state.layer, 100 * state.share_above, state.state, kOutlierMedians));
  }
  return warnings;
}

}  // namespace engram
