// StateValues: what a state's values are like, gathered piece by piece.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/inspection.h"

namespace engram {

class StateValues {
 public:
  // Of about so many values in all: of more than kSampleValues the median is
  // that of every n-th.
  explicit StateValues(int64_t values)
      : every_(std::max<int64_t>(1, values / kSampleValues)) {}

  void Add(absl::Span<const float> values) {
    for (const float value : values) {
      squares_ += double{value} * value;
      largest_ = std::max(largest_, std::fabs(value));
      if (count_++ % every_ == 0) sample_.push_back(std::fabs(value));
    }
  }

  // Fills in what is told of values.
  void Tell(StateSummary* summary) {
    summary->values = count_;
    summary->norm = std::sqrt(squares_);
    summary->largest = largest_;
    if (sample_.empty()) return;
    const auto middle = sample_.begin() + (sample_.size() - 1) / 2;
    std::nth_element(sample_.begin(), middle, sample_.end());
    summary->median = *middle;
    // What was never written has no median to be far above of.
    if (summary->median == 0) return;
    const auto above =
        std::count_if(sample_.begin(), sample_.end(), [&](float magnitude) {
          return magnitude > kOutlierMedians * summary->median;
        });
    summary->share_above =
        static_cast<double>(above) / static_cast<double>(sample_.size());
  }

 private:
  static constexpr int64_t kSampleValues = int64_t{1} << 20;

  const int64_t every_;
  int64_t count_ = 0;
  double squares_ = 0;
  float largest_ = 0;
  std::vector<float> sample_;
};

// REQUIRES: there are some.
inline FadingTime FadingTimeOf(std::vector<float> tokens) {
  const auto quantile = [&tokens](double part) {
    const auto place =
        tokens.begin() +
        static_cast<int64_t>(part * static_cast<double>(tokens.size() - 1));
    std::nth_element(tokens.begin(), place, tokens.end());
    return *place;
  };
  return {quantile(0.1), quantile(0.5), quantile(0.9), quantile(1)};
}

}  // namespace engram
