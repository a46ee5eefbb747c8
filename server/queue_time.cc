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

QueueTime::QueueTime(absl::Duration limit) : limit_(limit) {}

absl::Duration QueueTime::WholeAllowance() const {
  return limit_ - limit_ / kStanding;
}

void QueueTime::Started(absl::Time now, int waiting) {
  if (last_start_.has_value()) {
    intervals_ = std::min(intervals_ + 1, kIntervals);
    interval_ += (now - *last_start_ - interval_) / intervals_;
  }
  if (waiting == 0) return Emptied();
  last_start_ = now;
}

int QueueTime::GivenTo(int tenant, double weight) const {
  double weights = weight;
  int64_t held = 0;
  for (const TenantSlots& other : load_.tenants) {
    if (other.tenant == tenant) {
      held = other.slots;
    } else {
      weights += other.weight;
    }
  }
  const double share = load_.slots * weight / weights;
  return std::max(0, static_cast<int>(share - static_cast<double>(held)));
}

absl::Duration QueueTime::Expected(absl::Time now, int requests_ahead,
                                   int64_t prompt_tokens_ahead) const {
  absl::Duration wait = Feeding(prompt_tokens_ahead);
  if (requests_ahead >= load_.free_slots) {
    // The next start is due, or has not come for longer than usual.
    absl::Duration next = interval_;
    if (last_start_.has_value()) next = std::max(next, now - *last_start_);
    wait += next + (requests_ahead - load_.free_slots) * interval_;
  }
  return wait;
}

std::optional<absl::Duration> QueueTime::Forbids(absl::Time now,
                                                 absl::Duration expected,
                                                 int tenant) {
  if (limit_ == absl::InfiniteDuration()) return std::nullopt;
  Allowance& allowance =
      allowances_.try_emplace(tenant, Allowance{.left = WholeAllowance()})
          .first->second;
  SetCalm(now, expected <= limit_ / kCalm, &allowance);
  const absl::Duration limit = limit_ / kStanding + allowance.left;
  if (expected <= limit) return std::nullopt;
  return limit;
}

void QueueTime::NobodyWaits(absl::Time now) {
  for (auto& [tenant, allowance] : allowances_) SetCalm(now, true, &allowance);
  absl::erase_if(allowances_, [this](const auto& one) {
    return one.second.left == WholeAllowance();
  });
}

void QueueTime::Rested(int tenant) {
  const auto found = allowances_.find(tenant);
  if (found != allowances_.end()) found->second.calm = true;
}

void QueueTime::SetCalm(absl::Time now, bool calm, Allowance* allowance) const {
  if (allowance->time != absl::InfinitePast()) {
    const absl::Duration passed = now - allowance->time;
    allowance->left += allowance->calm ? passed / kComesIn : -passed / kGoesIn;
    allowance->left =
        std::clamp(allowance->left, absl::ZeroDuration(), WholeAllowance());
  }
  allowance->time = now;
  allowance->calm = calm;
}

}  // namespace engram
