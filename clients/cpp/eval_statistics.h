// What a count of right answers says about the rate behind it.
#pragma once

#include <cstdint>

namespace engram::client {

struct Interval {
  double low = 0;
  double high = 1;
};

// The Wilson score interval of a proportion at 95 %: true to its name also near
// 0 and 1, where accuracies of these tasks lie. All of [0, 1] if `count` is 0.
// REQUIRES: 0 <= right <= count.
Interval WilsonInterval(int64_t right, int64_t count);

}  // namespace engram::client
