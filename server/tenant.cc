#include "server/tenant.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

// Nobody knows when a stream ends.
constexpr absl::Duration kUntilAStreamEnds = absl::Seconds(1);
// A limit of nothing is asked about now and then all the same.
constexpr absl::Duration kRetryMost = absl::Seconds(30);
// Of the tenant's tokens, that may wait to be fed when another request comes.
constexpr double kWaitingSeconds = 1;

absl::Status Refused(absl::string_view why, absl::Duration wait) {
  wait = std::min(absl::Ceil(wait, absl::Milliseconds(1)), kRetryMost);
  return WithRetryAfter(
      absl::ResourceExhaustedError(
          absl::StrCat(why, "; try again in ", absl::FormatDuration(wait))),
      wait);
}

}  // namespace

TenantLimits Tenant::limits() const {
  absl::MutexLock lock(&mutex_);
  return limits_;
}

void Tenant::SetLimits(const TenantLimits& limits) {
  absl::MutexLock lock(&mutex_);
  limits_ = limits;
  requests_.Set(limits.requests_per_second);
  tokens_.Set(limits.tokens_per_second);
  weight_ = limits.weight;
  is_paced_ = tokens_.is_set();
}

absl::Status Tenant::CountRequest(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (requests_.Available(now) > 0) {
    requests_.Take(1);
    return absl::OkStatus();
  }
  const absl::Duration wait = requests_.TimeToNext(now);
  return Refused(
      absl::StrCat("tenant \"", name_, "\" has made the ",
                   static_cast<int64_t>(requests_.burst()),
                   " requests that may come at once, limit ",
                   requests_.per_second(), " a second (requests_per_second)"),
      wait);
}

int64_t Tenant::TakeTokens(int64_t wanted, int64_t least, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  const int64_t available = tokens_.Available(now);
  if (available == 0) return 0;
  const int64_t taken = std::min(wanted, std::max(available, least));
  tokens_.Take(taken);
  return taken;
}

void Tenant::GiveBackTokens(int64_t tokens) {
  absl::MutexLock lock(&mutex_);
  tokens_.GiveBack(tokens);
}

absl::Duration Tenant::TimeToNextToken(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  return tokens_.TimeToNext(now);
}

int64_t Tenant::streams() const {
  absl::MutexLock lock(&mutex_);
  return streams_;
}

absl::Status Tenant::Enter(int64_t prompt_tokens, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (limits_.streams.has_value() && streams_ >= *limits_.streams) {
    return Refused(
        absl::StrCat("tenant \"", name_, "\" has ", streams_,
                     " streams, limit ", *limits_.streams, " (streams)"),
        kUntilAStreamEnds);
  }
  ENGRAM_RETURN_IF_ERROR(CheckTokens(now));
  ++streams_;
  waiting_tokens_ += prompt_tokens;
  return absl::OkStatus();
}

absl::Status Tenant::CheckTokens(absl::Time now) {
  if (!tokens_.is_set()) return absl::OkStatus();
  const double waiting =
      static_cast<double>(waiting_tokens_) + tokens_.Debt(now);
  const double rate = tokens_.per_second();
  const double most = kWaitingSeconds * rate;
  if (waiting <= most) return absl::OkStatus();
  return Refused(
      absl::StrCat("tenant \"", name_, "\" has ", static_cast<int64_t>(waiting),
                   " tokens that wait to be fed, limit ", rate,
                   " a second (tokens_per_second)"),
      absl::Seconds((waiting - most) / rate));
}

void Tenant::Leave(int64_t prompt_tokens) {
  absl::MutexLock lock(&mutex_);
  --streams_;
  waiting_tokens_ -= prompt_tokens;
}

absl::StatusOr<TenantPlace> TenantPlace::Take(TenantHandle tenant,
                                              int64_t prompt_tokens,
                                              absl::Time now) {
  if (tenant == nullptr) return TenantPlace();
  ENGRAM_RETURN_IF_ERROR(tenant->Enter(prompt_tokens, now));
  return TenantPlace(std::move(tenant), prompt_tokens);
}

TenantPlace::~TenantPlace() {
  if (tenant_ != nullptr) tenant_->Leave(prompt_tokens_);
}

void TenantPlace::Fed(int64_t tokens) {
  tokens = std::min(tokens, prompt_tokens_);
  if (tokens == 0) return;
  prompt_tokens_ -= tokens;
  tenant_->waiting_tokens_ -= tokens;
}

}  // namespace engram
