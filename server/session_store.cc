#include "server/session_store.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "server/request_id.h"
#include "server/request_identity.h"
#include "server/session.h"
#include "server/session_checkpoints.h"
#include "server/session_ledger.h"
#include "server/session_pages.h"
#include "server/session_quota.h"
#include "server/session_room.h"
#include "server/session_table.h"
#include "server/slot_number.h"
#include "server/turn_checks.h"

namespace engram {
namespace {

const char* KindOf(const Session& session) {
  return session.is_checkpoint ? "checkpoint" : "session";
}

absl::Status Exists(const Session& session) {
  return absl::AlreadyExistsError(
      absl::StrCat(KindOf(session), " ", Quoted(session.name.id), " exists"));
}

// What `bytes` are more than those that are freed.
size_t Beyond(size_t bytes, size_t freed) {
  return bytes > freed ? bytes - freed : 0;
}

SessionHandle MakeCheckpoint(const TenantHandle& tenant, int model,
                             NewCheckpoint created, const CommittedTurns& turns,
                             std::shared_ptr<const StateBlock> block) {
  NewSession made = {
      .name = SessionName(tenant, std::move(created.id)),
      .model = model,
      .labels = std::move(created.labels),
  };
  const SessionHandle checkpoint =
      MakeSession(std::move(made), absl::InfiniteDuration());
  checkpoint->is_checkpoint = true;
  checkpoint->StartFrom(turns, std::move(block));
  return checkpoint;
}

}  // namespace

class ABSL_SCOPED_LOCKABLE SessionStore::Lock {
 public:
  explicit Lock(SessionStore* store) ABSL_EXCLUSIVE_LOCK_FUNCTION(store->mutex_)
      : store_(store) {
    store_->mutex_.Lock();
  }
  ~Lock() ABSL_UNLOCK_FUNCTION() {
    const SessionTable::Discarded freed = store_->table_->TakeDiscarded();
    store_->mutex_.Unlock();
  }

 private:
  SessionStore* const store_;
};

SessionStore::SessionStore(const SessionLimits& limits, Clock* clock)
    : limits_(limits),
      clock_(clock),
      table_(std::make_unique<SessionTable>(limits)),
      room_(std::make_unique<SessionRoom>(limits, table_.get())),
      checkpoints_(std::make_unique<SessionCheckpoints>(limits, table_.get())) {
}

SessionStore::~SessionStore() = default;

int SessionStore::AddModel(const std::string& name,
                           const ModelCapacity& capacity, int devices) {
  absl::MutexLock lock(&mutex_);
  return table_->AddModel(name, capacity, devices);
}

// --- Turns.

absl::StatusOr<SessionStore::TurnOrRecord> SessionStore::BeginTurn(
    int model, const Request& request,
    std::function<void(absl::Status)> cancel_turn) {
  const uint64_t digest = ShortDigest(request.request_id);
  SessionHandle session;  // freed after the lock
  Lock lock(this);
  ENGRAM_ASSIGN_OR_RETURN(session, FindOrMake(request, model));
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<const TurnRecord> record,
                          CheckTurnOn(*session, model, request, digest));
  if (record != nullptr) return TurnOrRecord(std::move(record));
  const bool is_new = session->is_new();
  const size_t growth = table_->ledger().GrowthTo(
      *session, TokensInTheEnd(session->turns.tokens(), request));
  ENGRAM_RETURN_IF_ERROR(CheckTenant(*session, is_new, growth));
  if (is_new) {
    ENGRAM_RETURN_IF_ERROR(Insert(session));
    session->made_by_turn = true;
  }

  SessionLedger& ledger = table_->ledger();
  const size_t kept = ledger.IsRoomy(ledger.StateBytes(*session))
                          ? 0
                          : table_->BytesKeptFrom(session->name.tenant);
  if (!ledger.Reserve(session.get(), kept)) {
    // What starts from a checkpoint has a state from the beginning.
    if (is_new) table_->Remove(session);
    return absl::ResourceExhaustedError(absl::StrCat(
        "session memory of ", limits_.memory_bytes, " bytes is reserved for ",
        "turns that are running, and for what sessions of others may need; try "
        "again later or raise --session-memory"));
  }
  const SessionTable::Relisting relisting(table_.get(), session.get());
  session->running = true;
  session->cancel_turn = std::move(cancel_turn);
  ledger.Promise(session.get(), growth);
  return TurnOrRecord(Turn{session, session->turns});
}

absl::StatusOr<std::shared_ptr<const TurnRecord>> SessionStore::CheckTurn(
    int model, const Request& request) const {
  const uint64_t digest = ShortDigest(request.request_id);
  absl::MutexLock lock(&mutex_);
  ENGRAM_ASSIGN_OR_RETURN(const SessionHandle session,
                          FindOrMake(request, model));
  return CheckTurnOn(*session, model, request, digest);
}

absl::StatusOr<SessionHandle> SessionStore::FindOrMake(const Request& request,
                                                       int model) const {
  SessionName name = request.session();
  if (SessionHandle found = table_->Find(name)) return found;
  // What has departed is missed aloud.
  if (table_->HasDeparted(name)) return table_->Get(name);
  NewSession created = {.name = std::move(name), .model = model};
  SessionHandle made = MakeSession(std::move(created), limits_.time_to_live);
  ENGRAM_RETURN_IF_ERROR(
      StartFromCheckpoint(request.from_checkpoint, made.get()));
  return made;
}

absl::Status SessionStore::StartFromCheckpoint(const std::string& id,
                                               Session* session) const {
  if (id.empty()) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(
      const SessionHandle checkpoint,
      checkpoints_->Use(SessionName(session->name.tenant, id), session->model,
                        clock_->Now()));
  session->StartFrom(checkpoint->turns, checkpoint->block);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const TurnRecord>> SessionStore::CheckTurnOn(
    const Session& session, int model, const Request& request,
    uint64_t digest) const {
  // A record is of a turn of the session's own model.
  ENGRAM_RETURN_IF_ERROR(CheckModel(session, model));
  return CheckTurnOf(session, request, digest, table_->ledger().capacity(model),
                     limits_);
}

std::string SessionStore::MakeRequestId(const SessionName& name) const {
  int64_t version = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (const SessionHandle found = table_->Find(name)) {
      version = found->turns.version;
    }
  }
  return NewRequestId(name, version);
}

absl::Status SessionStore::CheckModel(const Session& session, int model) const {
  if (session.model == model) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      KindOf(session), " ", Quoted(session.name.id), " belongs to model ",
      Quoted(table_->model_name(session.model)), ", not ",
      Quoted(table_->model_name(model))));
}

bool SessionStore::Commit(const SessionHandle& session, CommittedTurns turns,
                          int slot, TurnRecord record,
                          std::shared_ptr<const StateBlock> block) {
  const uint64_t digest = ShortDigest(record.request_id);
  std::shared_ptr<const TurnRecord> kept;
  if (record.whole && record.bytes() <= limits_.answer_bytes) {
    kept = std::make_shared<const TurnRecord>(std::move(record));
  }
  {
    Lock lock(this);
    if (session->deleted) return false;
    ENGRAM_CHECK(session->running);
    const SessionTable::Relisting relisting(table_.get(), session.get());
    table_->ReleaseSlot(*session);
    session->slot = slot;
    table_->Discard(std::exchange(session->block, std::move(block)));
    session->turns = std::move(turns);
    session->remembered.Add(digest, limits_.remembered_turns);
    table_->Discard(std::exchange(session->record, std::move(kept)));
    session->made_by_turn = false;
    EndTurn(session.get());
  }
  Trim(session.get());
  return true;
}

void SessionStore::Abort(const SessionHandle& session) {
  {
    Lock lock(this);
    if (session->deleted) return;
    ENGRAM_CHECK(session->running);
    if (session->made_by_turn) return table_->Remove(session);
    const SessionTable::Relisting relisting(table_.get(), session.get());
    EndTurn(session.get());
  }
  // Its state may lie in RAM and has lost its reservation.
  Trim(session.get());
}

absl::Status SessionStore::Insert(const SessionHandle& session) {
  ENGRAM_RETURN_IF_ERROR(room_->FindPlace(session->name.tenant));
  table_->Add(session, clock_->Now());
  return absl::OkStatus();
}

absl::Status SessionStore::CheckTenant(const Session& session, bool is_new,
                                       size_t growth) const {
  const size_t own_bytes = is_new ? session.own_bytes() : 0;
  const SessionDemand demand = {.sessions = is_new ? 1 : 0,
                                .bytes = growth + own_bytes};
  return CheckQuota(*table_, session.name.tenant, demand, clock_);
}

void SessionStore::EndTurn(Session* session) {
  table_->EndTurn(session);
  table_->Use(session, clock_->Now());
}

void SessionStore::Trim(const Session* keep) {
  while (true) {
    Lock lock(this);
    if (room_->TrimSome(keep)) return;
  }
}

// --- States.

absl::StatusOr<SessionStore::Location> SessionStore::Locate(
    const SessionHandle& session) const {
  absl::MutexLock lock(&mutex_);
  if (session->deleted) {
    return absl::NotFoundError(absl::StrCat(
        KindOf(*session), " ", Quoted(session->name.id), " was deleted"));
  }
  return Location{session->turns, session->slot, session->block};
}

std::optional<SessionStore::Resident> SessionStore::EvictionCandidate(
    int model, int device, absl::Span<const int> but) const {
  absl::MutexLock lock(&mutex_);
  const Session* const session = table_->lists().InSlot(model, device, but);
  if (session == nullptr) return std::nullopt;
  return Resident{table_->Find(session->name), session->slot, session->block};
}

bool SessionStore::MoveToRam(const SessionHandle& session, int slot,
                             std::shared_ptr<const StateBlock> block) {
  {
    Lock lock(this);
    if (session->deleted || session->slot != slot) return false;
    const SessionTable::Relisting relisting(table_.get(), session.get());
    session->slot = -1;
    table_->Discard(std::exchange(session->block, std::move(block)));
    ++table_->ledger().counts(session->model).evictions_slot_to_ram;
  }
  // May be this very session's end, if it is the one used least recently. A
  // turn's reservation always finds room.
  Trim(nullptr);
  return true;
}

void SessionStore::KeepCopy(const SessionHandle& session, int slot,
                            int64_t version,
                            std::shared_ptr<const StateBlock> block) {
  Lock lock(this);
  if (session->deleted || session->slot != slot ||
      session->turns.version != version || session->block != nullptr) {
    return;
  }
  const SessionLedger& ledger = table_->ledger();
  if (!ledger.Fits(ledger.BytesToHold(block.get()))) return;
  const SessionTable::Relisting relisting(table_.get(), session.get());
  session->block = std::move(block);
}

bool SessionStore::HoldForParked(size_t bytes) {
  {
    Lock lock(this);
    if (!table_->ledger().HoldForParked(bytes)) return false;
  }
  Trim(nullptr);
  return true;
}

void SessionStore::ReleaseParked(size_t bytes) {
  Lock lock(this);
  table_->ledger().ReleaseParked(bytes);
}

std::vector<int> SessionStore::ReleasedSlots(int model, int device) {
  absl::MutexLock lock(&mutex_);
  return table_->TakeReleasedSlots(model, device);
}

// --- Sessions as users see them.

absl::StatusOr<SessionInfo> SessionStore::Create(NewSession created) {
  const std::string from_checkpoint = std::move(created.from_checkpoint);
  const SessionHandle session =
      MakeSession(std::move(created), limits_.time_to_live);
  SessionInfo info;
  {
    Lock lock(this);
    if (table_->Find(session->name) != nullptr) return Exists(*session);
    ENGRAM_RETURN_IF_ERROR(StartFromCheckpoint(from_checkpoint, session.get()));
    ENGRAM_RETURN_IF_ERROR(CheckTenant(*session, /*is_new=*/true, 0));
    ENGRAM_RETURN_IF_ERROR(Insert(session));
    info = DescribeSession(*table_, *session);
  }
  Trim(session.get());
  return info;
}

absl::StatusOr<SessionInfo> SessionStore::InstallFork(
    const SessionHandle& source, const std::string& new_session_id,
    const CommittedTurns& turns, std::shared_ptr<const StateBlock> block) {
  NewSession made = {
      .name = SessionName(source->name.tenant, new_session_id),
      .model = source->model,
  };
  const SessionHandle session =
      MakeSession(std::move(made), limits_.time_to_live);
  if (!source->is_checkpoint) {
    session->time_to_live = source->time_to_live;
    session->labels = source->labels;
    session->label_bytes = source->label_bytes;
  }
  session->StartFrom(turns, std::move(block));

  while (true) {
    Lock lock(this);
    if (table_->Find(session->name) != nullptr) return Exists(*session);
    ENGRAM_ASSIGN_OR_RETURN(
        const bool inserted,
        TryInsertWithState(session, nullptr, source.get(), "a fork"));
    if (!inserted) continue;
    ++table_->ledger().counts(session->model).forks;
    return DescribeSession(*table_, *session);
  }
}

absl::StatusOr<bool> SessionStore::TryInsertWithState(
    const SessionHandle& session, const SessionHandle& old, const Session* keep,
    const char* what) {
  SessionLedger& ledger = table_->ledger();
  const size_t bytes =
      session->own_bytes() + ledger.BytesToHold(session->block.get());
  const SessionLedger::Holding freed =
      old == nullptr ? SessionLedger::Holding() : ledger.HeldAlone(*old);
  ENGRAM_RETURN_IF_ERROR(CheckQuota(
      *table_, session->name.tenant,
      {.sessions = old == nullptr ? 1 : 0, .bytes = Beyond(bytes, freed.held)},
      clock_));
  const SessionRoom::Found room =
      room_->FindBytes(Beyond(bytes, freed.ram), keep);
  if (room == SessionRoom::Found::kNotYet) return false;
  if (room == SessionRoom::Found::kNone) {
    return absl::ResourceExhaustedError(
        absl::StrCat("session memory of ", limits_.memory_bytes,
                     " bytes has no room for ", what, " of ", bytes, " bytes"));
  }
  if (old != nullptr) table_->Remove(old);
  ENGRAM_RETURN_IF_ERROR(Insert(session));
  return true;
}

// --- States from elsewhere.

absl::StatusOr<SessionStore::Replaced> SessionStore::BeginImport(
    const SessionName& name, bool may_replace) const {
  absl::MutexLock lock(&mutex_);
  return CheckReplaced(table_->Find(name), may_replace);
}

absl::StatusOr<SessionStore::Replaced> SessionStore::BeginCheckpointImport(
    const SessionName& name, bool may_replace) const {
  absl::MutexLock lock(&mutex_);
  return CheckReplaced(checkpoints_->Find(name), may_replace);
}

absl::StatusOr<SessionStore::Replaced> SessionStore::CheckReplaced(
    const SessionHandle& found, bool may_replace) const {
  if (found == nullptr) return Replaced();
  if (!may_replace) return Exists(*found);
  if (found->running) {
    return absl::AbortedError(
        absl::StrCat("session ", Quoted(found->name.id),
                     " has a running turn; replace it when that has ended"));
  }
  return Replaced{.session = found, .version = found->turns.version};
}

absl::Status SessionStore::CheckUnchanged(const SessionHandle& found,
                                          const Replaced& replaced,
                                          const Session& session) const {
  if (found != nullptr && replaced.session == nullptr) return Exists(*found);
  if (found != replaced.session) {
    return absl::AbortedError(
        absl::StrCat(KindOf(session), " ", Quoted(session.name.id), " was ",
                     found == nullptr ? "deleted or evicted" : "replaced",
                     " while its new state came"));
  }
  if (found == nullptr) return absl::OkStatus();
  ENGRAM_RETURN_IF_ERROR(CheckModel(*found, session.model));
  ENGRAM_RETURN_IF_ERROR(CheckReplaced(found, true).status());
  if (found->turns.version == replaced.version) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat("session ", Quoted(session.name.id), " is at version ",
                   found->turns.version, " and was at ", replaced.version,
                   " when its new state began to come"));
}

absl::StatusOr<SessionInfo> SessionStore::Import(
    NewSession imported, const Replaced& replaced, const CommittedTurns& turns,
    std::shared_ptr<const StateBlock> block) {
  const SessionHandle session =
      MakeSession(std::move(imported), limits_.time_to_live);
  session->StartFrom(turns, std::move(block));
  while (true) {
    Lock lock(this);
    const SessionHandle old = table_->Find(session->name);
    ENGRAM_RETURN_IF_ERROR(CheckUnchanged(old, replaced, *session));
    const Session* const keep = old == nullptr ? session.get() : old.get();
    ENGRAM_ASSIGN_OR_RETURN(
        const bool inserted,
        TryInsertWithState(session, old, keep, "an imported state"));
    if (inserted) return DescribeSession(*table_, *session);
  }
}

absl::StatusOr<SessionInfo> SessionStore::Get(const SessionName& name) const {
  absl::MutexLock lock(&mutex_);
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle session, table_->GetCommitted(name));
  return DescribeSession(*table_, *session);
}

std::vector<SessionInfo> SessionStore::List(const TenantHandle& tenant,
                                            int model, const std::string& after,
                                            int count) const {
  std::vector<SessionInfo> page;
  std::string last = after;
  while (static_cast<int>(page.size()) < count) {
    absl::MutexLock lock(&mutex_);
    if (!ListSomeSessions(*table_, tenant, model, count - page.size(), &last,
                          &page)) {
      break;
    }
  }
  return page;
}

absl::Status SessionStore::Delete(const SessionName& name) {
  std::function<void(absl::Status)> cancel_turn;
  {
    Lock lock(this);
    const SessionHandle session = table_->Find(name);
    if (session == nullptr) {
      // Its owner says that the loss is known.
      if (table_->ForgetDeparted(name)) return absl::OkStatus();
      return table_->Get(name).status();
    }
    cancel_turn = std::move(session->cancel_turn);
    table_->Remove(session);
  }
  if (cancel_turn) {
    cancel_turn(absl::CancelledError(
        absl::StrCat("session ", Quoted(name.id), " was deleted")));
  }
  return absl::OkStatus();
}

absl::StatusOr<SessionHandle> SessionStore::Find(
    const SessionName& name) const {
  absl::MutexLock lock(&mutex_);
  return table_->GetCommitted(name);
}

absl::StatusOr<SessionHandle> SessionStore::FindOfModel(const SessionName& name,
                                                        int model) const {
  absl::MutexLock lock(&mutex_);
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle session, table_->GetCommitted(name));
  ENGRAM_RETURN_IF_ERROR(CheckModel(*session, model));
  return session;
}

std::optional<int> SessionStore::DeviceOf(const SessionName& name) const {
  absl::MutexLock lock(&mutex_);
  const SessionHandle session = table_->Find(name);
  if (session == nullptr || session->slot < 0) return std::nullopt;
  return DeviceOfSlot(session->slot);
}

absl::StatusOr<int> SessionStore::ModelOf(const SessionName& name) const {
  absl::MutexLock lock(&mutex_);
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle session, table_->Get(name));
  return session->model;
}

// --- Checkpoints.

absl::StatusOr<SessionInfo> SessionStore::InstallCheckpoint(
    const SessionHandle& source, NewCheckpoint created,
    const CommittedTurns& turns, std::shared_ptr<const StateBlock> block) {
  if (block == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", Quoted(source->name.id),
                     " has read nothing yet: there is no state to keep"));
  }
  const SessionHandle checkpoint =
      MakeCheckpoint(source->name.tenant, source->model, std::move(created),
                     turns, std::move(block));
  while (true) {
    Lock lock(this);
    if (checkpoints_->Find(checkpoint->name) != nullptr) {
      return Exists(*checkpoint);
    }
    ENGRAM_ASSIGN_OR_RETURN(
        const bool added, TryAddCheckpoint(checkpoint, nullptr, source.get()));
    if (added) return DescribeSession(*table_, *checkpoint);
  }
}

absl::StatusOr<SessionInfo> SessionStore::ImportCheckpoint(
    const TenantHandle& tenant, int model, NewCheckpoint created,
    const Replaced& replaced, const CommittedTurns& turns,
    std::shared_ptr<const StateBlock> block) {
  const SessionHandle checkpoint = MakeCheckpoint(
      tenant, model, std::move(created), turns, std::move(block));
  while (true) {
    Lock lock(this);
    const SessionHandle old = checkpoints_->Find(checkpoint->name);
    ENGRAM_RETURN_IF_ERROR(CheckUnchanged(old, replaced, *checkpoint));
    ENGRAM_ASSIGN_OR_RETURN(
        const bool added, TryAddCheckpoint(checkpoint, old, checkpoint.get()));
    if (added) return DescribeSession(*table_, *checkpoint);
  }
}

absl::StatusOr<bool> SessionStore::TryAddCheckpoint(
    const SessionHandle& checkpoint, const SessionHandle& old,
    const Session* keep) {
  ENGRAM_ASSIGN_OR_RETURN(SessionCheckpoints::Room place,
                          checkpoints_->FindRoom(*checkpoint));
  const size_t bytes = checkpoint->own_bytes() +
                       table_->ledger().BytesToHold(checkpoint->block.get());
  ENGRAM_RETURN_IF_ERROR(
      CheckQuota(*table_, checkpoint->name.tenant, {.bytes = bytes}, clock_));
  const SessionRoom::Found room = room_->FindBytes(bytes, keep);
  if (room == SessionRoom::Found::kNotYet) return false;
  if (room == SessionRoom::Found::kNone) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "session memory of ", limits_.memory_bytes,
        " bytes has no room for a checkpoint of ", bytes, " bytes"));
  }
  ENGRAM_RETURN_IF_ERROR(
      checkpoints_->Add(checkpoint, std::move(place), old, clock_->Now()));
  return true;
}

std::vector<SessionInfo> SessionStore::ListCheckpoints(
    const TenantHandle& tenant, int model, const std::string& after,
    int count) const {
  std::vector<SessionInfo> page;
  std::string last = after;
  while (static_cast<int>(page.size()) < count) {
    absl::MutexLock lock(&mutex_);
    if (!checkpoints_->ListSome(tenant, model, count - page.size(), &last,
                                &page)) {
      break;
    }
  }
  return page;
}

absl::Status SessionStore::DeleteCheckpoint(const SessionName& name) {
  Lock lock(this);
  return checkpoints_->Remove(name);
}

absl::StatusOr<SessionHandle> SessionStore::UseCheckpoint(
    const SessionName& name, int model) {
  absl::MutexLock lock(&mutex_);
  return checkpoints_->Use(name, model, clock_->Now());
}

absl::StatusOr<int> SessionStore::ModelOfCheckpoint(
    const SessionName& name) const {
  absl::MutexLock lock(&mutex_);
  ENGRAM_ASSIGN_OR_RETURN(const SessionHandle checkpoint,
                          checkpoints_->Get(name));
  return checkpoint->model;
}

bool SessionStore::Sweep() {
  Lock lock(this);
  return room_->ExpireSome(clock_->Now());
}

void SessionStore::CountRestore(int model) {
  absl::MutexLock lock(&mutex_);
  ++table_->ledger().counts(model).restores;
}

SessionCounts SessionStore::Counts() const {
  absl::MutexLock lock(&mutex_);
  return table_->Counts();
}

std::vector<TenantUse> SessionStore::UsesOfTenants() const {
  std::vector<TenantUse> uses;
  int next = 0;
  while (true) {
    absl::MutexLock lock(&mutex_);
    if (!table_->AddTenantUses(&next, &uses)) return uses;
  }
}

}  // namespace engram
