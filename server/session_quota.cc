#include "server/session_quota.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/session.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

constexpr absl::Duration kRetryLeast = absl::Seconds(1);
constexpr absl::Duration kRetryMost = absl::Seconds(30);

absl::Status Refused(const SessionTable& table, const TenantHandle& tenant,
                     absl::string_view why, Clock* clock) {
  absl::Duration wait = kRetryMost;
  if (const Session* next = table.lists().Idle(tenant->number())) {
    wait = std::clamp(next->last_used + next->time_to_live - clock->Now(),
                      kRetryLeast, kRetryMost);
  }
  return WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                            "tenant \"", tenant->name(), "\" has ", why,
                            "; Delete sessions, or wait until some expire")),
                        wait);
}

}  // namespace

absl::Status CheckQuota(const SessionTable& table, const TenantHandle& tenant,
                        const SessionDemand& demand, Clock* clock) {
  const bool more = demand.sessions > 0 || demand.bytes > 0;
  if (tenant == nullptr || !more) return absl::OkStatus();
  const TenantLimits limits = tenant->limits();
  const size_t sessions = table.sessions_of(tenant).by_id.size();
  if (limits.sessions.has_value() && demand.sessions > 0 &&
      sessions + demand.sessions > static_cast<size_t>(*limits.sessions)) {
    return Refused(table, tenant,
                   absl::StrCat(sessions, " sessions, limit ", *limits.sessions,
                                " (sessions)"),
                   clock);
  }
  const TenantBytes bytes = table.ledger().bytes_of(tenant->number());
  const size_t taken = bytes.held + bytes.promised;
  if (limits.session_bytes.has_value() && demand.bytes > 0 &&
      taken + demand.bytes > static_cast<size_t>(*limits.session_bytes)) {
    return Refused(table, tenant,
                   absl::StrCat("sessions of ", taken,
                                " bytes, what its turns may add "
                                "among them, and this call may add ",
                                demand.bytes, ", limit ", *limits.session_bytes,
                                " (session_bytes)"),
                   clock);
  }
  return absl::OkStatus();
}

}  // namespace engram
