// Tenant: whose sessions are whose. A key belongs to a tenant, and what is made
// with it does: its sessions, their turns, what it may take of the server.
// Calls of a server without keys belong to the one whose name is empty.
//
// Its limits hold for all of it together, whichever models and devices run it:
// how many streams there are at once, how many requests come in a second, and
// how many tokens are fed in a second. The last is kept by pace: streams of a
// tenant that has fed what it may are left out of steps until it may go on.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/rate_limit.h"

namespace engram {

// What all keys of a tenant may take together. Nothing: no limit of its own.
struct TenantLimits {
  // Turns and scores that wait or run at once.
  std::optional<int64_t> streams = std::nullopt;
  // That there are, and what they take.
  std::optional<int64_t> sessions = std::nullopt;
  std::optional<int64_t> session_bytes = std::nullopt;
  // Fed, those sampled among them.
  std::optional<double> tokens_per_second = std::nullopt;
  // Turns, scores and calls of other methods that come, refused ones apart.
  std::optional<double> requests_per_second = std::nullopt;
  // Its share of steps and of memory where they do not suffice, beside that of
  // the others.
  double weight = 1;

  bool operator==(const TenantLimits&) const = default;
};

class Tenant {
 public:
  Tenant(std::string name, int number)
      : name_(std::move(name)), number_(number) {}

  const std::string& name() const { return name_; }
  // Of this process, from 0 (the one without a name) on without gaps.
  int number() const { return number_; }

  TenantLimits limits() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The file of keys was read again. What runs already goes on.
  void SetLimits(const TenantLimits& limits) ABSL_LOCKS_EXCLUDED(mutex_);
  // As in limits(), without a lock.
  double weight() const { return weight_.load(std::memory_order_relaxed); }

  // A request comes at `now`. RESOURCE_EXHAUSTED, with RetryAfter(): it comes
  // before requests_per_second allows it, and does not count.
  absl::Status CountRequest(absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Tokens, as engines feed them.

  // Whether there is a limit to them; without a lock.
  bool is_paced() const { return is_paced_.load(std::memory_order_relaxed); }
  // Of `wanted` tokens those that may be fed now, which are taken. If any may,
  // then at least `least` of them, since a prompt is not cut everywhere: what
  // that is too much is waited for later.
  int64_t TakeTokens(int64_t wanted, int64_t least, absl::Time now)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // They were taken and not fed.
  void GiveBackTokens(int64_t tokens) ABSL_LOCKS_EXCLUDED(mutex_);
  // From `now` until a token may be fed; zero if one may.
  absl::Duration TimeToNextToken(absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);

  // That have a TenantPlace.
  int64_t streams() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  friend class TenantPlace;

  absl::Status Enter(int64_t prompt_tokens, absl::Time now)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void Leave(int64_t prompt_tokens) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status CheckTokens(absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string name_;
  const int number_;
  std::atomic<double> weight_ = 1;
  std::atomic<bool> is_paced_ = false;
  mutable absl::Mutex mutex_;
  TenantLimits limits_ ABSL_GUARDED_BY(mutex_);
  RateLimit requests_ ABSL_GUARDED_BY(mutex_);
  RateLimit tokens_ ABSL_GUARDED_BY(mutex_);
  int64_t streams_ ABSL_GUARDED_BY(mutex_) = 0;
  // Of prompts that were let in and are not fed.
  std::atomic<int64_t> waiting_tokens_ = 0;
};

using TenantHandle = std::shared_ptr<Tenant>;

// What a stream takes of its tenant's limits, until it goes.
class TenantPlace {
 public:
  TenantPlace() = default;
  TenantPlace(TenantPlace&& other) noexcept
      : tenant_(std::move(other.tenant_)),
        prompt_tokens_(std::exchange(other.prompt_tokens_, 0)) {}
  // What it had is given back at once.
  TenantPlace& operator=(TenantPlace other) noexcept {
    std::swap(tenant_, other.tenant_);
    std::swap(prompt_tokens_, other.prompt_tokens_);
    return *this;
  }
  ~TenantPlace();

  // For one with so many tokens to be fed before it says anything. `tenant` may
  // be nullptr: there are no limits. RESOURCE_EXHAUSTED, with RetryAfter(): the
  // tenant has as many streams as it may, or a second's worth of tokens waits
  // already to be fed at its pace.
  static absl::StatusOr<TenantPlace> Take(TenantHandle tenant,
                                          int64_t prompt_tokens,
                                          absl::Time now);

  // So many tokens of the stream were fed. On one thread.
  void Fed(int64_t tokens);

 private:
  TenantPlace(TenantHandle tenant, int64_t prompt_tokens)
      : tenant_(std::move(tenant)), prompt_tokens_(prompt_tokens) {}

  TenantHandle tenant_;
  int64_t prompt_tokens_ = 0;  // not fed yet
};

}  // namespace engram
