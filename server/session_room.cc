#include "server/session_room.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/session.h"

namespace engram {
namespace {

// Sessions that leave while the lock is held once: some dozen microseconds of
// work.
constexpr int kDroppedPerLock = 64;

constexpr char kMemoryIsFull[] = "evicted: session memory is full";

}  // namespace

SessionRoom::Asking SessionRoom::AskingFor(const Session* keep, size_t bytes) {
  if (keep == nullptr) return {};
  const TenantHandle& tenant = keep->name.tenant;
  return {NumberOf(tenant), static_cast<double>(bytes) / WeightOf(tenant)};
}

template <typename Drop>
bool SessionRoom::GiveBack(const TenantsByLoad& tenants, Asking asking,
                           Drop drop) {
  const std::optional<double> has = tenants.Find(asking.tenant);
  bool asked = !has.has_value();
  for (const auto& [load, tenant] : tenants.order()) {
    // It comes to its own load here at the latest.
    if (!asked && *has + asking.more >= load) {
      asked = true;
      if (drop(asking.tenant)) return true;
    }
    if (tenant != asking.tenant && drop(tenant)) return true;
  }
  return false;
}

SessionRoom::Found SessionRoom::FindBytes(size_t bytes, const Session* keep) {
  if (!table_->ledger().CouldFit(bytes)) return Found::kNone;
  const Asking asking = AskingFor(keep, bytes);
  int left = kDroppedPerLock;
  while (!table_->ledger().Fits(bytes)) {
    if (left-- == 0) return Found::kNotYet;
    const bool dropped = GiveBack(table_->by_bytes(), asking, [&](int tenant) {
      return DropOne(tenant, keep);
    });
    if (!dropped) return Found::kNone;
  }
  return Found::kFits;
}

bool SessionRoom::TrimSome(const Session* keep) {
  const Found found = FindBytes(0, keep);
  if (found != Found::kNone) return found == Found::kFits;
  const bool evicted = GiveBack(
      table_->by_bytes_in_slots(), AskingFor(keep, 0), [&](int tenant) {
        Session* const idle = table_->lists().IdleInSlot(tenant, keep);
        if (idle != nullptr) EvictForGood(idle, kMemoryIsFull);
        return idle != nullptr;
      });
  return !evicted;
}

absl::Status SessionRoom::FindPlace(const TenantHandle& tenant) {
  const size_t sessions = table_->size();
  if (sessions < static_cast<size_t>(limits_.sessions)) return absl::OkStatus();
  const Asking asking = {NumberOf(tenant), 1 / WeightOf(tenant)};
  const bool evicted = GiveBack(table_->by_sessions(), asking, [&](int giving) {
    EvictForGood(table_->lists().Idle(giving), "evicted: too many sessions");
    return true;
  });
  if (!evicted) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "there are ", sessions, " sessions with running turns, limit ",
        limits_.sessions, " (--max-sessions)"));
  }
  return absl::OkStatus();
}

bool SessionRoom::ExpireSome(absl::Time now) {
  for (int left = kDroppedPerLock;; --left) {
    const auto [session, time] = table_->lists().Expired(now);
    if (session == nullptr) return true;
    if (left == 0) return false;
    ++table_->ledger().counts(session->model).expirations;
    table_->Depart(session,
                   absl::StrCat("expired at ", absl::FormatTime(time)));
  }
}

bool SessionRoom::DropOne(int tenant, const Session* keep) {
  const SessionLists& lists = table_->lists();
  if (Session* copied = lists.WithSlotCopy(tenant, keep)) {
    DropCopy(copied);
  } else if (Session* idle = lists.IdleInRam(tenant, keep)) {
    EvictForGood(idle, kMemoryIsFull);
  } else if (Session* answered = lists.WithLongAnswer(tenant, keep)) {
    DropAnswer(answered);
  } else {
    return false;
  }
  return true;
}

void SessionRoom::DropAnswer(Session* session) {
  const SessionTable::Relisting relisting(table_, session);
  table_->Discard(std::exchange(session->record, nullptr));
}

void SessionRoom::DropCopy(Session* session) {
  const SessionTable::Relisting relisting(table_, session);
  table_->Discard(std::exchange(session->block, nullptr));
}

void SessionRoom::EvictForGood(Session* session, const char* reason) {
  ++table_->ledger().counts(session->model).evictions_for_good;
  table_->Depart(session, reason);
}

}  // namespace engram
