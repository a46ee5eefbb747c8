#include "server/session_table.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "server/session.h"
#include "server/slot_number.h"

namespace engram {
namespace {

// Tenants that are looked at while the lock is held once.
constexpr int kUsesPerLock = 128;

}  // namespace

int SessionTable::AddModel(const std::string& name,
                           const ModelCapacity& capacity, int devices) {
  ENGRAM_CHECK(tenants_.size() == 0);
  lists_.AddModel(devices);
  ledger_.AddModel(capacity);
  models_.push_back(
      {.name = name, .released = std::vector<std::vector<int>>(devices)});
  return static_cast<int>(models_.size()) - 1;
}

const SessionTable::TenantSessions& SessionTable::sessions_of(
    const TenantHandle& tenant) const {
  return tenants_.Get(NumberOf(tenant));
}

SessionTable::TenantSessions& SessionTable::SessionsOf(
    const TenantHandle& tenant) {
  TenantSessions& sessions = tenants_.At(NumberOf(tenant));
  if (!sessions.exists()) {
    sessions.tenant = tenant;
    sessions.by_model.resize(models_.size());
  }
  return sessions;
}

SessionHandle SessionTable::Find(const SessionName& name) const {
  const ById& sessions = sessions_of(name.tenant).by_id;
  const auto found = sessions.find(name.id);
  return found != sessions.end() ? found->second : nullptr;
}

absl::StatusOr<SessionHandle> SessionTable::Get(const SessionName& name) const {
  if (SessionHandle found = Find(name)) return found;
  if (const std::string* reason = departed_.ReasonOf(name)) {
    return absl::NotFoundError(
        absl::StrCat("session ", Quoted(name.id), " is gone, ", *reason,
                     "; Create or Delete it to start anew"));
  }
  return absl::NotFoundError(
      absl::StrCat("there is no session ", Quoted(name.id)));
}

absl::StatusOr<SessionHandle> SessionTable::GetCommitted(
    const SessionName& name) const {
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle session, Get(name));
  if (session->made_by_turn) {
    return absl::NotFoundError(absl::StrCat(
        "session ", Quoted(name.id), " is in its first turn; it is there once ",
        "that has committed"));
  }
  return session;
}

void SessionTable::Add(const SessionHandle& session, absl::Time now) {
  Use(session.get(), now);
  session->create_time = session->last_used;
  departed_.Erase(session->name);
  TenantSessions& sessions = SessionsOf(session->name.tenant);
  sessions.by_id.emplace(session->name.id, session);
  sessions.by_model[session->model].emplace(session->name.id, session.get());
  ++size_;
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
  TenantSessions& sessions = SessionsOf(session->name.tenant);
  sessions.by_model[session->model].erase(session->name.id);
  sessions.by_id.erase(session->name.id);
  --size_;
  Discard(std::exchange(session->block, nullptr));
  Discard(session);
  RankTenant(session->name.tenant);
}

void SessionTable::Depart(Session* session, std::string reason) {
  if (session->turns.position > 0) {
    departed_.Add(session->name, std::move(reason));
  }
  const SessionHandle handle = Find(session->name);
  Remove(handle);
}

bool SessionTable::ForgetDeparted(const SessionName& name) {
  return departed_.Erase(name);
}

bool SessionTable::HasDeparted(const SessionName& name) const {
  return departed_.ReasonOf(name) != nullptr;
}

void SessionTable::AddCheckpoint(Session* checkpoint) {
  ledger_.Count(checkpoint);
  RankTenant(checkpoint->name.tenant);
}

void SessionTable::RemoveCheckpoint(const SessionHandle& checkpoint) {
  ledger_.Discount(checkpoint.get());
  ledger_.EndReservation(checkpoint.get());
  checkpoint->deleted = true;
  Discard(std::exchange(checkpoint->block, nullptr));
  Discard(checkpoint);
  RankTenant(checkpoint->name.tenant);
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
  RankTenant(session->name.tenant);
}

// Whatever has nothing to give back is in no order, so that the first one
// there has.
void SessionTable::RankTenant(const TenantHandle& tenant) {
  const int number = NumberOf(tenant);
  const double weight = WeightOf(tenant);
  const double bytes = double(ledger_.bytes_of(number).ram) / weight;
  const auto rank = [number](TenantsByLoad* order, bool gives, double load) {
    if (gives) return order->Set(number, load);
    order->Erase(number);
  };
  const bool in_ram = lists_.IdleInRam(number, nullptr) != nullptr;
  const bool in_slot = lists_.IdleInSlot(number, nullptr) != nullptr;
  rank(&by_bytes_,
       in_ram || lists_.WithSlotCopy(number, nullptr) != nullptr ||
           lists_.WithLongAnswer(number, nullptr) != nullptr,
       bytes);
  rank(&by_bytes_in_slots_, in_slot, bytes);
  rank(&by_sessions_, in_ram || in_slot,
       double(sessions_of(tenant).by_id.size()) / weight);
}

size_t SessionTable::BytesKeptFrom(const TenantHandle& tenant) const {
  // Alone, nobody has to share.
  if (sessions_of(tenant).by_id.size() == size_) return 0;
  double weights = 0;
  for (int number = 0; number < tenants_.size(); ++number) {
    const TenantSessions& own = tenants_.Get(number);
    if (!own.by_id.empty()) weights += WeightOf(own.tenant);
  }
  size_t kept = 0;
  for (int number = 0; number < tenants_.size(); ++number) {
    const TenantSessions& own = tenants_.Get(number);
    if (!own.exists() || number == NumberOf(tenant)) continue;
    const TenantBytes& bytes = ledger_.bytes_of(number);
    const auto share = static_cast<size_t>(double(ledger_.memory_bytes()) *
                                           WeightOf(own.tenant) / weights);
    const size_t needed = std::min(share, bytes.held);
    if (needed > bytes.reserved) kept += needed - bytes.reserved;
  }
  return kept;
}

bool SessionTable::AddTenantUses(int* next,
                                 std::vector<TenantUse>* uses) const {
  const int end = std::min(tenants_.size(), *next + kUsesPerLock);
  for (; *next < end; ++*next) {
    const TenantSessions& own = tenants_.Get(*next);
    if (!own.exists()) continue;
    uses->push_back({own.tenant, static_cast<int64_t>(own.by_id.size()),
                     ledger_.bytes_of(*next).held});
  }
  return end < tenants_.size();
}

}  // namespace engram
