// RateLimit: how much may be taken of something in a second, as a bucket that
// fills at that rate: what was not taken may be taken later, but no more than
// half a second's worth at once. One may take more than there is where it
// cannot be parted; then nothing is there until the debt is paid, so that the
// rate holds in the long run.
//
// Pure: it is told the time. Thread-compatible.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/time/time.h"

namespace engram {

class RateLimit {
 public:
  // Nothing: there is no limit, as at first. A new limit begins with a full
  // bucket; a changed one keeps what there is, up to half a second's worth.
  void Set(std::optional<double> per_second);
  bool is_set() const { return per_second_.has_value(); }
  // REQUIRES: is_set().
  double per_second() const { return *per_second_; }
  // Half a second's worth, at least one.
  double burst() const;

  // Whole units that are there at `now`; the largest number without a limit.
  int64_t Available(absl::Time now);
  // What is missing to none at all.
  double Debt(absl::Time now);
  // `amount` is taken, even if it is more than what is there.
  void Take(int64_t amount);
  // It was taken and not used.
  void GiveBack(int64_t amount) { Take(-amount); }
  // From `now` until a whole unit is there. InfiniteDuration: never.
  absl::Duration TimeToNext(absl::Time now);

 private:
  void Fill(absl::Time now);

  std::optional<double> per_second_;
  double level_ = 0;
  absl::Time filled_ = absl::InfinitePast();  // when it held `level_`
};

}  // namespace engram
