// QueueTime: how long a request that comes now would wait, and whether that is
// too long.
//
// While requests wait, the time between two starts is measured: whatever holds
// the slots, it is what those in the queue wait for. Those that run wait too,
// for each other's prompts: the tokens that are fed before a newcomer's count
// with what a token costs.
//
// A burst may wait the whole limit. But where requests wait all the time, the
// queue only makes everybody late: the longer it stands, the less it may hold,
// down to a sixteenth of the limit, so that what is accepted is soon served.
//
// Pure: it is told the time. Thread-compatible (Admission's lock).
#pragma once

#include <cstdint>
#include <optional>

#include "absl/time/time.h"

namespace engram {

// What the engine knows when it has filled its slots.
struct QueueLoad {
  int free_slots = 0;   // those that a newcomer would find, or be given
  int empty_slots = 0;  // of them, those that hold no state
  absl::Duration time_per_prompt_token;
};

class QueueTime {
 public:
  // InfiniteDuration: there is no limit.
  explicit QueueTime(absl::Duration limit);

  void SetLoad(const QueueLoad& load) { load_ = load; }
  const QueueLoad& load() const { return load_; }

  // A request left the queue for a slot; so many still wait.
  void Started(absl::Time now, int waiting);
  // Nobody waits in the queue any more, for another reason.
  void Emptied() { last_start_.reset(); }
  // Nor for a prompt before his.
  void NobodyWaits(absl::Time now) { SetCalm(now, true); }

  // Of one that comes now, with so many requests in the queue and so many
  // prompt tokens, in slots or on their way there, that go before it.
  absl::Duration Expected(absl::Time now, int requests_ahead,
                          int64_t prompt_tokens_ahead) const;
  // Notes what is expected at `now`. The limit that forbids it to wait so long;
  // nothing if it may.
  std::optional<absl::Duration> Forbids(absl::Time now,
                                        absl::Duration expected);

 private:
  // Whether one that comes now has nearly nothing to wait for, from now on.
  void SetCalm(absl::Time now, bool calm);

  const absl::Duration limit_;
  QueueLoad load_;
  int64_t intervals_ = 0;                 // measured
  absl::Duration interval_;               // between two starts, their mean
  std::optional<absl::Time> last_start_;  // since which requests have waited
  // What a burst may wait beyond what a queue may that stands: it goes while
  // there is a wait, and comes back, more slowly, while there is none.
  absl::Duration allowance_;
  absl::Time allowance_time_ = absl::InfinitePast();  // when it was so
  bool calm_ = true;
};

}  // namespace engram
