#include "clients/cpp/eval_statistics.h"

#include <algorithm>
#include <cmath>

namespace engram::client {

Interval WilsonInterval(int64_t right, int64_t count) {
  // The normal distribution has 2.5 % above it.
  constexpr double kZ = 1.959963984540054;
  if (count == 0) return {};
  const double n = static_cast<double>(count);
  const double rate = static_cast<double>(right) / n;
  const double center = rate + kZ * kZ / (2 * n);
  const double spread =
      kZ * std::sqrt(rate * (1 - rate) / n + kZ * kZ / (4 * n * n));
  const double scale = 1 + kZ * kZ / n;
  // At rates of 0 and 1 the bound is 0 and 1, but for rounding.
  return {right == 0 ? 0 : std::max(0.0, (center - spread) / scale),
          right == count ? 1 : std::min(1.0, (center + spread) / scale)};
}

}  // namespace engram::client
