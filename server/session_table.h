// SessionTable: which sessions each tenant has, by id and by model, and which
// have departed. Whatever happens to a session is entered in its lists and in
// the ledger too.
//
// Under the session store's lock. What is let go of waits in discarded memory
// until the lock is free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/by_tenant.h"
#include "server/departed_sessions.h"
#include "server/model_capacity.h"
#include "server/session_ledger.h"
#include "server/session_lists.h"
#include "server/session_store.h"
#include "server/tenants_by_load.h"

namespace engram {

class SessionTable {
 public:
  using ById = absl::btree_map<absl::string_view, SessionHandle>;
  using ModelById = absl::btree_map<absl::string_view, Session*>;
  using Discarded = std::vector<std::shared_ptr<const void>>;
  class Relisting;

  explicit SessionTable(const SessionLimits& limits)
      : ledger_(limits.memory_bytes), departed_(limits.departed) {}

  // Returns the model's number. REQUIRES: there is no session.
  int AddModel(const std::string& name, const ModelCapacity& capacity,
               int devices = 1);
  const std::string& model_name(int model) const { return models_[model].name; }

  // A tenant's sessions in order of id; keys are the sessions' own.
  struct TenantSessions {
    TenantHandle tenant;
    ById by_id;
    std::vector<ModelById> by_model;

    // Whether the tenant has ever had any.
    bool exists() const { return !by_model.empty(); }
  };
  // Of all tenants.
  size_t size() const { return size_; }
  // Empty for one that has never had any.
  const TenantSessions& sessions_of(const TenantHandle& tenant) const;
  // nullptr if there is none.
  SessionHandle Find(const SessionName& name) const;
  // NOT_FOUND (which says so if it has departed). What other tenants have makes
  // no difference.
  absl::StatusOr<SessionHandle> Get(const SessionName& name) const;
  // The same, and it has not just been made by a turn that is still running.
  absl::StatusOr<SessionHandle> GetCommitted(const SessionName& name) const;

  // A new session, used now; its name is none of the departed any more.
  // REQUIRES: there is none of its name.
  void Add(const SessionHandle& session, absl::Time now);
  // It is the one used most recently. REQUIRES: it is not listed.
  void Use(Session* session, absl::Time now);
  // Its turn has ended, and its reservation. REQUIRES: it is not listed.
  void EndTurn(Session* session);
  // It is deleted; its slot is released.
  void Remove(const SessionHandle& session);
  // The same without its owner's word: unless it was never fed, its name is one
  // of the departed.
  void Depart(Session* session, std::string reason);
  // Its owner knows of its loss. False if it had not departed.
  bool ForgetDeparted(const SessionName& name);
  bool HasDeparted(const SessionName& name) const;

  // It is counted, but is none of the sessions.
  void AddCheckpoint(Session* checkpoint);
  // It is deleted, and its reservation ends.
  void RemoveCheckpoint(const SessionHandle& checkpoint);

  // Nobody's any more, until they are taken.
  void ReleaseSlot(const Session& session);
  std::vector<int> TakeReleasedSlots(int model, int device = 0);
  void Discard(std::shared_ptr<const void> memory);
  Discarded TakeDiscarded();

  // Tenants by what they take for their weight. Of bytes in RAM: those that
  // have something there to give back, and those that have idle sessions in
  // slots. Of places: those that have idle sessions.
  const TenantsByLoad& by_bytes() const { return by_bytes_; }
  const TenantsByLoad& by_bytes_in_slots() const { return by_bytes_in_slots_; }
  const TenantsByLoad& by_sessions() const { return by_sessions_; }
  // What turns of `tenant` must leave of the memory, so that others can begin
  // theirs on the sessions that they have, each within its share.
  size_t BytesKeptFrom(const TenantHandle& tenant) const;
  // What tenants take, some dozens from number `next` on, which goes on to
  // the first that is left; false if there are no more.
  bool AddTenantUses(int* next, std::vector<TenantUse>* uses) const;

  const SessionLists& lists() const { return lists_; }
  SessionLedger& ledger() { return ledger_; }
  const SessionLedger& ledger() const { return ledger_; }
  SessionCounts Counts() const;

 private:
  struct ModelSessions {
    std::string name;
    std::vector<std::vector<int>> released;  // of each device
  };

  // Made if there are none.
  TenantSessions& SessionsOf(const TenantHandle& tenant);
  // Its sessions have changed.
  void RankTenant(const TenantHandle& tenant);
  // To change a listed session's fields is what Relisting is for.
  void Unlist(Session* session);
  void Enlist(Session* session);

  ByTenant<TenantSessions> tenants_;
  size_t size_ = 0;
  std::vector<ModelSessions> models_;
  TenantsByLoad by_bytes_;
  TenantsByLoad by_bytes_in_slots_;
  TenantsByLoad by_sessions_;
  SessionLists lists_;
  SessionLedger ledger_;
  DepartedSessions departed_;
  int64_t uses_ = 0;
  Discarded discarded_;
};

// A session's fields may change while this lives: where it is listed and what
// of it is counted follow from them.
class SessionTable::Relisting {
 public:
  // Neither may be nullptr; both outlive this.
  Relisting(SessionTable* table, Session* session)
      : table_(table), session_(session) {
    table_->Unlist(session_);
  }
  Relisting(const Relisting&) = delete;
  Relisting& operator=(const Relisting&) = delete;
  ~Relisting() { table_->Enlist(session_); }

 private:
  SessionTable* const table_;
  Session* const session_;
};

}  // namespace engram
