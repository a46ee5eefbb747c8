#include "server/rate_limit.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace engram {
namespace {

constexpr double kBurstSeconds = 0.5;
// What sums of fractions may lack of a whole.
constexpr double kRounding = 1e-6;

}  // namespace

void RateLimit::Set(std::optional<double> per_second) {
  const bool is_new = !per_second_.has_value();
  per_second_ = per_second;
  if (per_second_.has_value() && is_new) level_ = burst();
}

double RateLimit::burst() const {
  return std::max(1.0, kBurstSeconds * *per_second_);
}

void RateLimit::Fill(absl::Time now) {
  // A clock that is set back takes nothing away.
  if (filled_ != absl::InfinitePast() && now > filled_) {
    level_ += absl::ToDoubleSeconds(now - filled_) * *per_second_;
  }
  level_ = std::min(level_, burst());
  filled_ = now;
}

int64_t RateLimit::Available(absl::Time now) {
  if (!is_set()) return std::numeric_limits<int64_t>::max();
  Fill(now);
  return std::max<int64_t>(
      0, static_cast<int64_t>(std::floor(level_ + kRounding)));
}

double RateLimit::Debt(absl::Time now) {
  if (!is_set()) return 0;
  Fill(now);
  return std::max(0.0, -level_);
}

void RateLimit::Take(int64_t amount) {
  if (is_set()) level_ -= static_cast<double>(amount);
}

absl::Duration RateLimit::TimeToNext(absl::Time now) {
  if (Available(now) > 0) return absl::ZeroDuration();
  // Rounded up, so that who comes then finds it.
  return absl::Ceil(absl::Seconds((1 - level_) / *per_second_),
                    absl::Microseconds(1));
}

}  // namespace engram
