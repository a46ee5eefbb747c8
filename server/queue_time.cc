#include "server/queue_time.h"

#include <algorithm>

namespace engram {
namespace {

// Intervals that the mean is over.
constexpr int64_t kIntervals = 128;
// Parts of the limit: what a queue that stands may hold, and what is as good as
// no wait.
constexpr int kStanding = 16;
constexpr int kCalm = 64;
// In how many of the allowance's own lengths it goes and comes.
constexpr double kGoesIn = 0.25;
constexpr double kComesIn = 1;

}  // namespace

QueueTime::QueueTime(absl::Duration limit)
    : limit_(limit), allowance_(limit - limit / kStanding) {}

void QueueTime::Started(absl::Time now, int waiting) {
  if (last_start_.has_value()) {
    intervals_ = std::min(intervals_ + 1, kIntervals);
    interval_ += (now - *last_start_ - interval_) / intervals_;
  }
  if (waiting == 0) return Emptied();
  last_start_ = now;
}

absl::Duration QueueTime::Expected(absl::Time now, int requests_ahead,
                                   int64_t prompt_tokens_ahead) const {
  absl::Duration wait = prompt_tokens_ahead * load_.time_per_prompt_token;
  if (requests_ahead >= load_.free_slots) {
    // The next start is due, or has not come for longer than usual.
    absl::Duration next = interval_;
    if (last_start_.has_value()) next = std::max(next, now - *last_start_);
    wait += next + (requests_ahead - load_.free_slots) * interval_;
  }
  return wait;
}

std::optional<absl::Duration> QueueTime::Forbids(absl::Time now,
                                                 absl::Duration expected) {
  if (limit_ == absl::InfiniteDuration()) return std::nullopt;
  SetCalm(now, expected <= limit_ / kCalm);
  const absl::Duration limit = limit_ / kStanding + allowance_;
  if (expected <= limit) return std::nullopt;
  return limit;
}

void QueueTime::SetCalm(absl::Time now, bool calm) {
  if (limit_ == absl::InfiniteDuration()) return;
  if (allowance_time_ != absl::InfinitePast()) {
    const absl::Duration passed = now - allowance_time_;
    allowance_ += calm_ ? passed / kComesIn : -passed / kGoesIn;
    allowance_ = std::clamp(allowance_, absl::ZeroDuration(),
                            limit_ - limit_ / kStanding);
  }
  allowance_time_ = now;
  calm_ = calm;
}

}  // namespace engram
