#include "server/session_table.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "server/session.h"
#include "server/slot_number.h"

namespace engram {

int SessionTable::AddModel(const std::string& name,
                           const ModelCapacity& capacity, int devices) {
  ENGRAM_CHECK(sessions_.empty());
  lists_.AddModel(devices);
  ledger_.AddModel(capacity);
  models_.push_back({.name = name,
                     .by_id = {},
                     .released = std::vector<std::vector<int>>(devices)});
  return static_cast<int>(models_.size()) - 1;
}

SessionHandle SessionTable::Find(const std::string& session_id) const {
  const auto found = sessions_.find(session_id);
  return found != sessions_.end() ? found->second : nullptr;
}

absl::StatusOr<SessionHandle> SessionTable::Get(
    const std::string& session_id) const {
  if (SessionHandle found = Find(session_id)) return found;
  if (const std::string* reason = departed_.ReasonOf(session_id)) {
    return absl::NotFoundError(
        absl::StrCat("session ", Quoted(session_id), " is gone, ", *reason,
                     "; Create or Delete it to start anew"));
  }
  return absl::NotFoundError(
      absl::StrCat("there is no session ", Quoted(session_id)));
}

absl::StatusOr<SessionHandle> SessionTable::GetCommitted(
    const std::string& session_id) const {
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle session, Get(session_id));
  if (session->made_by_turn) {
    return absl::NotFoundError(absl::StrCat(
        "session ", Quoted(session_id),
        " is in its first turn; it is there once ", "that has committed"));
  }
  return session;
}

void SessionTable::Add(const SessionHandle& session, absl::Time now) {
  Use(session.get(), now);
  session->create_time = session->last_used;
  departed_.Erase(session->id);
  sessions_.emplace(session->id, session);
  models_[session->model].by_id.emplace(session->id, session.get());
  Enlist(session.get());
}

void SessionTable::Use(Session* session, absl::Time now) {
  session->last_used = now;
  session->use = ++uses_;
}

void SessionTable::EndTurn(Session* session) {
  session->running = false;
  session->cancel_turn = nullptr;
  ledger_.EndReservation(session);
}

void SessionTable::Remove(const SessionHandle& session) {
  Unlist(session.get());
  if (session->running) EndTurn(session.get());
  session->deleted = true;
  ReleaseSlot(*session);
  session->slot = -1;
  models_[session->model].by_id.erase(session->id);
  sessions_.erase(session->id);
  Discard(std::exchange(session->block, nullptr));
  Discard(session);
}

void SessionTable::Depart(Session* session, std::string reason) {
  if (session->turns.position > 0) {
    departed_.Add(session->id, std::move(reason));
  }
  const SessionHandle handle = sessions_.find(session->id)->second;
  Remove(handle);
}

bool SessionTable::ForgetDeparted(const std::string& session_id) {
  return departed_.Erase(session_id);
}

bool SessionTable::HasDeparted(const std::string& session_id) const {
  return departed_.ReasonOf(session_id) != nullptr;
}

void SessionTable::ReleaseSlot(const Session& session) {
  if (session.slot < 0) return;
  models_[session.model].released[DeviceOfSlot(session.slot)].push_back(
      session.slot);
}

std::vector<int> SessionTable::TakeReleasedSlots(int model, int device) {
  return std::exchange(models_[model].released[device], {});
}

void SessionTable::Discard(std::shared_ptr<const void> memory) {
  if (memory != nullptr) discarded_.push_back(std::move(memory));
}

SessionTable::Discarded SessionTable::TakeDiscarded() {
  return std::exchange(discarded_, {});
}

SessionCounts SessionTable::Counts() const {
  SessionCounts counts = ledger_.Counts();
  counts.departed_bytes = departed_.bytes();
  return counts;
}

void SessionTable::Unlist(Session* session) {
  ledger_.Discount(session);
  lists_.Unlist(session);
}

void SessionTable::Enlist(Session* session) {
  ledger_.Count(session);
  lists_.Enlist(session);
}

}  // namespace engram
