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
// That is so for each tenant by itself.
//
// Pure: it is told the time. Thread-compatible (Admission's lock).
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "server/slot_shares.h"

namespace engram {

// What the engine knows when it has filled its slots.
struct QueueLoad {
  int slots = 0;        // that there are
  int free_slots = 0;   // those that a newcomer would find, or be given
  int empty_slots = 0;  // of them, those that hold no state
  absl::Duration time_per_prompt_token;
  // Of tenants by name that have slots.
  std::vector<TenantSlots> tenants = {};
};

class QueueTime {
 public:
  // InfiniteDuration: there is no limit.
  explicit QueueTime(absl::Duration limit);

  void SetLoad(QueueLoad load) { load_ = std::move(load); }
  const QueueLoad& load() const { return load_; }

  // A request left the queue for a slot; so many still wait.
  void Started(absl::Time now, int waiting);
  // Nobody waits in the queue any more, for another reason.
  void Emptied() { last_start_.reset(); }
  // Nor for a prompt before his.
  void NobodyWaits(absl::Time now);

  // Nothing of the tenant waits, nor has lately.
  void Rested(int tenant);

  // Slots that others would give up for the tenant, which holds less than its
  // share.
  int GivenTo(int tenant, double weight) const;
  // Until so many tokens are fed before one that has its slot.
  absl::Duration Feeding(int64_t prompt_tokens_ahead) const {
    return prompt_tokens_ahead * load_.time_per_prompt_token;
  }
  // Of one that comes now, with so many requests in the queue and so many
  // prompt tokens, in slots or on their way there, that go before it.
  absl::Duration Expected(absl::Time now, int requests_ahead,
                          int64_t prompt_tokens_ahead) const;
  // Notes what is expected at `now` by one of a tenant's requests. The limit
  // that forbids it to wait so long; nothing if it may.
  std::optional<absl::Duration> Forbids(absl::Time now, absl::Duration expected,
                                        int tenant = 0);

 private:
  // What a burst may wait beyond what a queue may that stands: it goes while
  // there is a wait, and comes back, more slowly, while there is none.
  struct Allowance {
    absl::Duration left;
    absl::Time time = absl::InfinitePast();  // when it was so
    bool calm = true;
  };

  // All that it can be.
  absl::Duration WholeAllowance() const;
  // Whether one that comes now has nearly nothing to wait for, from now on.
  void SetCalm(absl::Time now, bool calm, Allowance* allowance) const;

  const absl::Duration limit_;
  QueueLoad load_;
  int64_t intervals_ = 0;                 // measured
  absl::Duration interval_;               // between two starts, their mean
  std::optional<absl::Time> last_start_;  // since which requests have waited
  // Of tenants that have waited; the others have all of it.
  absl::flat_hash_map<int, Allowance> allowances_;
};

}  // namespace engram
