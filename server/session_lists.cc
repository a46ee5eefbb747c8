#include "server/session_lists.h"

#include "absl/algorithm/container.h"
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
  OfTenant& own = tenants_.At(NumberOf(session->name.tenant));
  if (session->slot >= 0) {
    InSlots& in_slots = in_slots_[session->model][DeviceOfSlot(session->slot)];
    session->residence = session->running ? &in_slots.running : &in_slots.idle;
    if (!session->running) own.idle_in_slots.emplace(session->use, session);
  } else if (!session->running) {
    session->residence = &own.idle_in_ram;
  }
  if (session->residence != nullptr) {
    session->residence->emplace(session->use, session);
  }
  if (HasLongAnswer(*session)) own.long_answers.emplace(session->use, session);
  if (session->has_slot_copy()) own.slot_copies.emplace(session->use, session);
  if (!session->running) expiries_.emplace(ExpiryOf(*session), session);
}

void SessionLists::Unlist(Session* session) {
  OfTenant& own = tenants_.At(NumberOf(session->name.tenant));
  if (session->residence != nullptr) session->residence->erase(session->use);
  session->residence = nullptr;
  if (session->slot >= 0 && !session->running) {
    own.idle_in_slots.erase(session->use);
  }
  if (HasLongAnswer(*session)) own.long_answers.erase(session->use);
  if (session->has_slot_copy()) own.slot_copies.erase(session->use);
  if (!session->running) expiries_.erase(ExpiryOf(*session));
}

Session* SessionLists::IdleInRam(int tenant, const Session* keep) const {
  return FirstBut(tenants_.Get(tenant).idle_in_ram, keep);
}

Session* SessionLists::IdleInSlot(int tenant, const Session* keep) const {
  return FirstBut(tenants_.Get(tenant).idle_in_slots, keep);
}

Session* SessionLists::Idle(int tenant) const {
  Session* const in_ram = IdleInRam(tenant, nullptr);
  Session* const in_slot = IdleInSlot(tenant, nullptr);
  if (in_ram == nullptr || in_slot == nullptr) {
    return in_ram == nullptr ? in_slot : in_ram;
  }
  return in_ram->use < in_slot->use ? in_ram : in_slot;
}

Session* SessionLists::WithLongAnswer(int tenant, const Session* keep) const {
  return FirstBut(tenants_.Get(tenant).long_answers, keep);
}

Session* SessionLists::WithSlotCopy(int tenant, const Session* keep) const {
  return FirstBut(tenants_.Get(tenant).slot_copies, keep);
}

Session* SessionLists::InSlot(int model, int device,
                              absl::Span<const int> but) const {
  const InSlots& in_slots = in_slots_[model][device];
  for (const SessionsByUse* sessions : {&in_slots.idle, &in_slots.running}) {
    for (const auto& [use, session] : *sessions) {
      if (!absl::c_linear_search(but, session->slot)) return session;
    }
  }
  return nullptr;
}

std::pair<Session*, absl::Time> SessionLists::Expired(absl::Time now) const {
  if (expiries_.empty()) return {nullptr, now};
  const auto& [expiry, session] = *expiries_.begin();
  if (expiry.first > now) return {nullptr, now};
  return {session, expiry.first};
}

}  // namespace engram
