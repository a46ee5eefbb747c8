#include "server/session_checkpoints.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "server/session.h"
#include "server/session_pages.h"

namespace engram {
namespace {

// Of the session memory, for all checkpoints: turns must be able to run beside
// them.
constexpr size_t kShareOfCheckpoints = 2;

// Checkpoints that are looked at while the lock is held once.
constexpr size_t kListedPerLock = 128;

std::string WhoseAre(const TenantBudget::Shortage& shortage,
                     const TenantHandle& tenant) {
  return shortage.of_tenant
             ? absl::StrCat(" of tenant \"", tenant->name(), "\"")
             : "";
}

const char* Beside(const TenantBudget::Shortage& shortage) {
  return shortage.of_tenant ? " beside other tenants" : "";
}

}  // namespace

SessionCheckpoints::SessionCheckpoints(const SessionLimits& limits,
                                       SessionTable* table)
    : limits_(limits),
      table_(table),
      bytes_(limits.memory_bytes / kShareOfCheckpoints),
      places_(limits.checkpoints) {}

SessionHandle SessionCheckpoints::Find(const SessionName& name) const {
  const auto found = by_name_.find(KeyOf(name));
  return found != by_name_.end() ? found->second.checkpoint : nullptr;
}

absl::StatusOr<SessionHandle> SessionCheckpoints::Get(
    const SessionName& name) const {
  if (SessionHandle found = Find(name)) return found;
  return absl::NotFoundError(
      absl::StrCat("there is no checkpoint ", Quoted(name.id)));
}

absl::StatusOr<SessionHandle> SessionCheckpoints::Use(const SessionName& name,
                                                      int model,
                                                      absl::Time now) {
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle checkpoint, Get(name));
  if (checkpoint->model != model) {
    return absl::InvalidArgumentError(
        absl::StrCat("checkpoint ", Quoted(name.id), " belongs to model ",
                     Quoted(table_->model_name(checkpoint->model)), ", not ",
                     Quoted(table_->model_name(model))));
  }
  checkpoint->last_used = now;
  return checkpoint;
}

absl::StatusOr<SessionCheckpoints::Room> SessionCheckpoints::FindRoom(
    const Session& checkpoint) {
  const SessionName& name = checkpoint.name;
  TenantBudget::Shortage shortage;
  auto place = places_.Take(name.tenant.get(), 1, &shortage);
  if (!place.has_value()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "there are ", shortage.taken, " checkpoints",
        WhoseAre(shortage, name.tenant), ", limit ", shortage.limit,
        Beside(shortage), " (--max-checkpoints); delete some"));
  }
  const size_t taken = checkpoint.own_bytes() + checkpoint.block->bytes();
  auto bytes = bytes_.Take(name.tenant.get(), taken, &shortage);
  if (!bytes.has_value()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "checkpoints", WhoseAre(shortage, name.tenant), " take ",
        shortage.taken, " bytes, this one ", taken, ", limit ", shortage.limit,
        Beside(shortage), ", which is part of --session-memory; delete some"));
  }
  return Room{.bytes = *std::move(bytes), .place = *std::move(place)};
}

absl::Status SessionCheckpoints::Add(const SessionHandle& checkpoint, Room room,
                                     const SessionHandle& old, absl::Time now) {
  if (!table_->ledger().Reserve(
          checkpoint.get(), table_->BytesKeptFrom(checkpoint->name.tenant))) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "session memory of ", limits_.memory_bytes, " bytes is reserved for ",
        "turns that are running and other checkpoints, and for what sessions ",
        "of others may need; try again later or raise --session-memory"));
  }
  if (old != nullptr) ENGRAM_RETURN_IF_ERROR(Remove(old->name));
  checkpoint->create_time = checkpoint->last_used = now;
  table_->AddCheckpoint(checkpoint.get());
  by_name_.emplace(KeyOf(checkpoint->name),
                   Entry{.checkpoint = checkpoint, .room = std::move(room)});
  return absl::OkStatus();
}

absl::Status SessionCheckpoints::Remove(const SessionName& name) {
  ENGRAM_ASSIGN_OR_RETURN(const SessionHandle checkpoint, Get(name));
  by_name_.erase(KeyOf(name));
  table_->RemoveCheckpoint(checkpoint);
  return absl::OkStatus();
}

bool SessionCheckpoints::ListSome(const TenantHandle& tenant, int model,
                                  size_t count, std::string* after,
                                  std::vector<SessionInfo>* page) const {
  const int number = NumberOf(tenant);
  const auto is_own = [&](const auto& entry) {
    return entry != by_name_.end() && entry->first.first == number;
  };
  auto next = by_name_.upper_bound(Key(number, *after));
  for (size_t seen = 0; is_own(next) && count > 0 && seen < kListedPerLock;
       ++next, ++seen) {
    const Session& checkpoint = *next->second.checkpoint;
    *after = checkpoint.name.id;
    if (model >= 0 && checkpoint.model != model) continue;
    page->push_back(DescribeSession(*table_, checkpoint));
    --count;
  }
  return is_own(next);
}

}  // namespace engram
