#include "server/session_room.h"

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

SessionRoom::Found SessionRoom::FindBytes(size_t bytes, const Session* keep) {
  if (!table_->ledger().CouldFit(bytes)) return Found::kNone;
  int left = kDroppedPerLock;
  while (!table_->ledger().Fits(bytes)) {
    if (left-- == 0) return Found::kNotYet;
    if (!DropOne(keep)) return Found::kNone;
  }
  return Found::kFits;
}

bool SessionRoom::TrimSome(const Session* keep) {
  const Found found = FindBytes(0, keep);
  if (found != Found::kNone) return found == Found::kFits;
  Session* const idle = table_->lists().IdleInSlot(keep);
  if (idle == nullptr) return true;
  EvictForGood(idle, kMemoryIsFull);
  return false;
}

absl::Status SessionRoom::FindPlace() {
  const size_t sessions = table_->size();
  if (sessions < static_cast<size_t>(limits_.sessions)) return absl::OkStatus();
  Session* const leaving = table_->lists().Idle();
  if (leaving == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "there are ", sessions, " sessions with running turns, limit ",
        limits_.sessions, " (--max-sessions)"));
  }
  EvictForGood(leaving, "evicted: too many sessions");
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

bool SessionRoom::DropOne(const Session* keep) {
  const SessionLists& lists = table_->lists();
  if (Session* copied = lists.WithSlotCopy(keep)) {
    DropCopy(copied);
  } else if (Session* idle = lists.IdleInRam(keep)) {
    EvictForGood(idle, kMemoryIsFull);
  } else if (Session* answered = lists.WithLongAnswer(keep)) {
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
