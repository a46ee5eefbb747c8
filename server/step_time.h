// StepTime: how long a step takes, learned from those that ran, and how many
// prompt tokens may therefore join the next one.
//
// A step is taken to cost something fixed (the weights are read once) and
// something for every token: the line through the last steps.
//
// Pure: it is told durations and reads no clock. Engine thread only.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace engram {

class StepTime {
 public:
  // `target`: of a step beside running streams. InfiniteDuration: no limit.
  explicit StepTime(absl::Duration target) : target_(target) {}

  // A step of `tokens` (> 0) took so long.
  void Observe(int tokens, absl::Duration duration);

  // What a step of so many tokens will take; zero before the first one ran.
  absl::Duration Expected(int tokens) const;

  // Prompt tokens that may join `streams` decoding sequences, from 1 to `most`.
  // Beside streams a step takes the target, or twice what the streams need
  // alone if that is more; without, ten times the target, so that whoever comes
  // meanwhile is soon served, or eight times its fixed cost. It is never less
  // than a few tokens, for which alone it would not be worth reading the
  // weights.
  int PromptTokens(int streams, int most) const;
  // Tokens of a step that takes no longer than what a tenant alone would need
  // for `wanted` (> 0) of its own, divided by its `share` (0 to 1) of the
  // machine: what others feed beside it slows it down by no more than that.
  double TokensBeside(double wanted, double share) const;
  // For each prompt token, if a step has as many as it may.
  absl::Duration TimePerPromptToken(int streams, int most) const;

 private:
  // Over the steps, each with a weight that fades.
  struct Sums {
    double weight = 0;
    double tokens = 0;
    double seconds = 0;
    double tokens_squared = 0;
    double tokens_seconds = 0;
  };

  void FitLine();
  // Forgets the steps; the line is `speed` times what it was.
  void StartAnew(double speed);

  const absl::Duration target_;
  Sums sums_;
  // The line, in seconds.
  double fixed_ = 0;
  double per_token_ = 0;
  bool slope_known_ = false;
  int last_tokens_ = 0;
  int outliers_ = 0;  // in a row
  int64_t steps_ = 0;
};

}  // namespace engram
