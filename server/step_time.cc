#include "server/step_time.h"

#include <algorithm>
#include <limits>

namespace engram {
namespace {

// What a step's weight is multiplied by with each that follows.
constexpr double kFade = 0.95;
// A step that took so many times what was expected, or less than its part, was
// held up by something else, unless several in a row are alike: then the
// machine runs at another speed, and what was learned before is wrong.
constexpr double kOutlier = 1.5;
constexpr int kOutliersOfAChange = 3;
// Steps of such different lengths that they tell the cost of a token: the
// variance of their tokens, in squares of the mean.
constexpr double kSpread = 1e-3;
// Every so many steps one has half the prompt tokens, so that there is a
// spread.
constexpr int kStepsBetweenShortOnes = 16;
constexpr int kLeastPromptTokens = 16;
// Until it is known what a token costs: then twice as many in each step.
constexpr int kFirstPromptTokens = 64;
constexpr double kStreamsSlowdown = 2;
constexpr double kTargetsWithoutStreams = 10;
constexpr double kFixedWithoutStreams = 8;

}  // namespace

void StepTime::Observe(int tokens, absl::Duration duration) {
  double seconds = absl::ToDoubleSeconds(duration);
  const double expected = fixed_ + per_token_ * tokens;
  ++steps_;
  last_tokens_ = tokens;
  if (expected > 0) {
    const bool outlier =
        seconds > expected * kOutlier || seconds < expected / kOutlier;
    outliers_ = outlier ? outliers_ + 1 : 0;
    if (outliers_ == kOutliersOfAChange) {
      StartAnew(seconds / expected);
    } else {
      seconds = std::clamp(seconds, expected / kOutlier, expected * kOutlier);
    }
  }
  sums_.weight = kFade * sums_.weight + 1;
  sums_.tokens = kFade * sums_.tokens + tokens;
  sums_.seconds = kFade * sums_.seconds + seconds;
  sums_.tokens_squared =
      kFade * sums_.tokens_squared + double{1} * tokens * tokens;
  sums_.tokens_seconds = kFade * sums_.tokens_seconds + tokens * seconds;
  FitLine();
}

void StepTime::StartAnew(double speed) {
  outliers_ = 0;
  sums_ = Sums();
  fixed_ *= speed;
  per_token_ *= speed;
}

void StepTime::FitLine() {
  const double mean_tokens = sums_.tokens / sums_.weight;
  const double mean_seconds = sums_.seconds / sums_.weight;
  const double variance =
      sums_.tokens_squared / sums_.weight - mean_tokens * mean_tokens;
  const double line = fixed_ + per_token_ * mean_tokens;
  if (variance > kSpread * mean_tokens * mean_tokens) {
    const double covariance =
        sums_.tokens_seconds / sums_.weight - mean_tokens * mean_seconds;
    per_token_ =
        std::clamp(covariance / variance, 0.0, mean_seconds / mean_tokens);
    slope_known_ = true;
  } else if (slope_known_ && line > 0) {
    // Steps that are all alike tell how fast the machine is, not what a token
    // adds.
    per_token_ *= mean_seconds / line;
  } else {
    per_token_ = mean_seconds / mean_tokens;
  }
  fixed_ = mean_seconds - per_token_ * mean_tokens;
}

absl::Duration StepTime::Expected(int tokens) const {
  return absl::Seconds(fixed_ + per_token_ * tokens);
}

int StepTime::PromptTokens(int streams, int most) const {
  if (target_ == absl::InfiniteDuration()) return most;
  if (!slope_known_) {
    most = std::min(most, std::max(kFirstPromptTokens, 2 * last_tokens_));
  }
  if (per_token_ <= 0) return most;
  const double target = absl::ToDoubleSeconds(target_);
  const double before = fixed_ + per_token_ * streams;
  const double after = streams > 0 ? std::max(target, kStreamsSlowdown * before)
                                   : std::max(kTargetsWithoutStreams * target,
                                              kFixedWithoutStreams * fixed_);
  double tokens =
      std::clamp<double>((after - before) / per_token_, kLeastPromptTokens,
                         std::max(most, kLeastPromptTokens));
  if (steps_ % kStepsBetweenShortOnes == 0) tokens /= 2;
  return std::min(most, static_cast<int>(tokens));
}

double StepTime::TokensBeside(double wanted, double share) const {
  if (per_token_ <= 0) return std::numeric_limits<double>::infinity();
  const double fixed_tokens = fixed_ / per_token_;
  double tokens = (wanted + fixed_tokens) / share - fixed_tokens;
  if (steps_ % kStepsBetweenShortOnes == 0) tokens /= 2;
  return tokens;
}

absl::Duration StepTime::TimePerPromptToken(int streams, int most) const {
  const int tokens = PromptTokens(streams, most);
  return Expected(streams + tokens) / tokens;
}

}  // namespace engram
