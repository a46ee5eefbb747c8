#include "server/session_lists.h"

#include "kernels/status.h"
#include "server/session.h"
#include "server/slot_number.h"

namespace engram {
namespace {

// Answers of up to so many bytes are not dropped one by one: it would gain
// little.
constexpr size_t kSmallAnswer = 64 << 10;

Session* FirstBut(const SessionsByUse& sessions, const Session* keep) {
  for (const auto& [use, session] : sessions) {
    if (session != keep) return session;
  }
  return nullptr;
}

bool HasLongAnswer(const Session& session) {
  return session.record != nullptr && session.record->bytes() > kSmallAnswer;
}

std::pair<absl::Time, int64_t> ExpiryOf(const Session& session) {
  return {session.last_used + session.time_to_live, session.use};
}

}  // namespace

void SessionLists::AddModel(int devices) {
  // Lists must not move once sessions point at them.
  for (const std::vector<InSlots>& model : in_slots_) {
    for (const InSlots& device : model) {
      ENGRAM_CHECK(device.idle.empty() && device.running.empty());
    }
  }
  in_slots_.emplace_back(devices);
}

void SessionLists::Enlist(Session* session) {
  if (session->slot >= 0) {
    InSlots& in_slots = in_slots_[session->model][DeviceOfSlot(session->slot)];
    session->residence = session->running ? &in_slots.running : &in_slots.idle;
  } else if (!session->running) {
    session->residence = &idle_in_ram_;
  }
  if (session->residence != nullptr) {
    session->residence->emplace(session->use, session);
  }
  if (HasLongAnswer(*session)) long_answers_.emplace(session->use, session);
  if (session->has_slot_copy()) slot_copies_.emplace(session->use, session);
  if (!session->running) expiries_.emplace(ExpiryOf(*session), session);
}

void SessionLists::Unlist(Session* session) {
  if (session->residence != nullptr) session->residence->erase(session->use);
  session->residence = nullptr;
  if (HasLongAnswer(*session)) long_answers_.erase(session->use);
  if (session->has_slot_copy()) slot_copies_.erase(session->use);
  if (!session->running) expiries_.erase(ExpiryOf(*session));
}

Session* SessionLists::IdleInRam(const Session* keep) const {
  return FirstBut(idle_in_ram_, keep);
}

Session* SessionLists::IdleInSlot(const Session* keep) const {
  Session* least = nullptr;
  for (const std::vector<InSlots>& model : in_slots_) {
    for (const InSlots& device : model) {
      Session* const first = FirstBut(device.idle, keep);
      if (first != nullptr && (least == nullptr || first->use < least->use)) {
        least = first;
      }
    }
  }
  return least;
}

Session* SessionLists::Idle() const {
  Session* const in_ram = IdleInRam(nullptr);
  Session* const in_slot = IdleInSlot(nullptr);
  if (in_ram == nullptr || in_slot == nullptr) {
    return in_ram == nullptr ? in_slot : in_ram;
  }
  return in_ram->use < in_slot->use ? in_ram : in_slot;
}

Session* SessionLists::WithLongAnswer(const Session* keep) const {
  return FirstBut(long_answers_, keep);
}

Session* SessionLists::WithSlotCopy(const Session* keep) const {
  return FirstBut(slot_copies_, keep);
}

Session* SessionLists::InSlot(int model, int device) const {
  const InSlots& in_slots = in_slots_[model][device];
  Session* const idle = FirstBut(in_slots.idle, nullptr);
  return idle != nullptr ? idle : FirstBut(in_slots.running, nullptr);
}

std::pair<Session*, absl::Time> SessionLists::Expired(absl::Time now) const {
  if (expiries_.empty()) return {nullptr, now};
  const auto& [expiry, session] = *expiries_.begin();
  if (expiry.first > now) return {nullptr, now};
  return {session, expiry.first};
}

}  // namespace engram
