#include "server/session_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "server/request_id.h"
#include "server/request_identity.h"
#include "server/session.h"
#include "server/session_ledger.h"
#include "server/session_lists.h"
#include "server/turn_checks.h"

namespace engram {
namespace {

// Sessions that are told of, or leave, while the lock is held once: some dozen
// microseconds of work.
constexpr size_t kListedPerLock = 128;
constexpr int kDroppedPerLock = 64;

}  // namespace

class ABSL_SCOPED_LOCKABLE SessionStore::Lock {
 public:
  explicit Lock(SessionStore* store) ABSL_EXCLUSIVE_LOCK_FUNCTION(store->mutex_)
      : store_(store) {
    store_->mutex_.Lock();
  }
  ~Lock() ABSL_UNLOCK_FUNCTION() {
    std::vector<std::shared_ptr<const void>> discarded;
    discarded.swap(store_->discarded_);
    store_->mutex_.Unlock();
  }

 private:
  SessionStore* const store_;
};

// A session's fields may change while this lives: where it is listed and what
// of it is counted follow from them.
class SessionStore::Relisting {
 public:
  Relisting(SessionStore* store, Session* session)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(store->mutex_)
      : store_(store), session_(session) {
    store_->Unlist(session_);
  }
  Relisting(const Relisting&) = delete;
  Relisting& operator=(const Relisting&) = delete;
  // With the lock that it was made under.
  ~Relisting() ABSL_NO_THREAD_SAFETY_ANALYSIS { store_->Enlist(session_); }

 private:
  SessionStore* const store_;
  Session* const session_;
};

SessionStore::SessionStore(const SessionLimits& limits, Clock* clock)
    : limits_(limits),
      clock_(clock),
      lists_(std::make_unique<SessionLists>()),
      ledger_(std::make_unique<SessionLedger>(limits.memory_bytes)),
      departed_(limits.departed) {}

SessionStore::~SessionStore() = default;

int SessionStore::AddModel(const std::string& name,
                           const ModelCapacity& capacity) {
  absl::MutexLock lock(&mutex_);
  ENGRAM_CHECK(sessions_.empty());
  lists_->AddModel();
  ledger_->AddModel(capacity);
  models_.push_back({.name = name, .by_id = {}, .released = {}});
  return static_cast<int>(models_.size()) - 1;
}

// --- Turns.

absl::StatusOr<SessionStore::TurnOrRecord> SessionStore::BeginTurn(
    int model, const Request& request,
    std::function<void(absl::Status)> cancel_turn) {
  const uint64_t digest = ShortDigest(request.request_id);
  SessionHandle session;  // freed after the lock
  Lock lock(this);
  ENGRAM_ASSIGN_OR_RETURN(session, FindOrMake(request.session_id, model));
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<const TurnRecord> record,
                          CheckTurnOn(*session, model, request, digest));
  if (record != nullptr) return TurnOrRecord(std::move(record));
  if (!sessions_.contains(session->id)) {
    ENGRAM_RETURN_IF_ERROR(Insert(session));
    session->made_by_turn = true;
  }

  if (!ledger_->Reserve(session.get())) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "session memory of ", limits_.memory_bytes, " bytes is reserved for ",
        "turns that are running; try again later or raise --session-memory"));
  }
  const Relisting relisting(this, session.get());
  session->running = true;
  session->cancel_turn = std::move(cancel_turn);
  return TurnOrRecord(Turn{session, session->turns});
}

absl::StatusOr<std::shared_ptr<const TurnRecord>> SessionStore::CheckTurn(
    int model, const Request& request) const {
  const uint64_t digest = ShortDigest(request.request_id);
  absl::MutexLock lock(&mutex_);
  ENGRAM_ASSIGN_OR_RETURN(const SessionHandle session,
                          FindOrMake(request.session_id, model));
  return CheckTurnOn(*session, model, request, digest);
}

absl::StatusOr<SessionHandle> SessionStore::FindOrMake(
    const std::string& session_id, int model) const {
  const auto found = sessions_.find(session_id);
  if (found != sessions_.end()) return found->second;
  // What has departed is missed aloud.
  if (departed_.ReasonOf(session_id) != nullptr) return FindLocked(session_id);
  NewSession made;
  made.session_id = session_id;
  made.model = model;
  return Make(std::move(made));
}

absl::StatusOr<std::shared_ptr<const TurnRecord>> SessionStore::CheckTurnOn(
    const Session& session, int model, const Request& request,
    uint64_t digest) const {
  // A record is of a turn of the session's own model.
  ENGRAM_RETURN_IF_ERROR(CheckModel(session, model));
  return CheckTurnOf(session, request, digest, ledger_->capacity(model),
                     limits_);
}

std::string SessionStore::MakeRequestId(const std::string& session_id) const {
  int64_t version = 0;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = sessions_.find(session_id);
    if (found != sessions_.end()) version = found->second->turns.version;
  }
  return NewRequestId(session_id, version);
}

absl::Status SessionStore::CheckModel(const Session& session, int model) const {
  if (session.model == model) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("session ", Quoted(session.id), " belongs to model ",
                   Quoted(models_[session.model].name), ", not ",
                   Quoted(models_[model].name)));
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
    const Relisting relisting(this, session.get());
    if (session->slot >= 0) {
      models_[session->model].released.push_back(session->slot);
    }
    session->slot = slot;
    discarded_.push_back(std::exchange(session->block, std::move(block)));
    session->turns = std::move(turns);
    session->remembered.Add(digest, limits_.remembered_turns);
    discarded_.push_back(std::exchange(session->record, std::move(kept)));
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
    if (session->made_by_turn) return Remove(session);
    const Relisting relisting(this, session.get());
    EndTurn(session.get());
  }
  // Its state may lie in RAM and has lost its reservation.
  Trim(session.get());
}

void SessionStore::EndTurn(Session* session) {
  session->running = false;
  session->cancel_turn = nullptr;
  ledger_->EndReservation(session);
  Use(session);
}

void SessionStore::Use(Session* session) {
  session->last_used = clock_->Now();
  session->use = ++uses_;
}

// --- States.

absl::StatusOr<SessionStore::Location> SessionStore::Locate(
    const SessionHandle& session) const {
  absl::MutexLock lock(&mutex_);
  if (session->deleted) {
    return absl::NotFoundError(
        absl::StrCat("session ", Quoted(session->id), " was deleted"));
  }
  return Location{session->turns, session->slot, session->block};
}

std::optional<SessionStore::Resident> SessionStore::EvictionCandidate(
    int model) const {
  absl::MutexLock lock(&mutex_);
  const Session* const session = lists_->InSlot(model);
  if (session == nullptr) return std::nullopt;
  return Resident{sessions_.find(session->id)->second, session->slot,
                  session->block};
}

bool SessionStore::MoveToRam(const SessionHandle& session, int slot,
                             std::shared_ptr<const StateBlock> block) {
  {
    Lock lock(this);
    if (session->deleted || session->slot != slot) return false;
    const Relisting relisting(this, session.get());
    session->slot = -1;
    discarded_.push_back(std::exchange(session->block, std::move(block)));
    ++ledger_->counts(session->model).evictions_slot_to_ram;
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
  if (!ledger_->Fits(ledger_->BytesToHold(block.get()))) return;
  const Relisting relisting(this, session.get());
  session->block = std::move(block);
}

bool SessionStore::HoldForParked(size_t bytes) {
  {
    Lock lock(this);
    if (!ledger_->HoldForParked(bytes)) return false;
  }
  Trim(nullptr);
  return true;
}

void SessionStore::ReleaseParked(size_t bytes) {
  Lock lock(this);
  ledger_->ReleaseParked(bytes);
}

std::vector<int> SessionStore::ReleasedSlots(int model) {
  absl::MutexLock lock(&mutex_);
  return std::exchange(models_[model].released, {});
}

// --- Room.

SessionStore::Room SessionStore::MakeRoom(size_t bytes, const Session* keep) {
  if (!ledger_->CouldFit(bytes)) return Room::kNone;
  int left = kDroppedPerLock;
  while (!ledger_->Fits(bytes)) {
    if (left-- == 0) return Room::kNotYet;
    if (!DropOne(keep)) return Room::kNone;
  }
  return Room::kFits;
}

bool SessionStore::DropOne(const Session* keep) {
  if (Session* copied = lists_->WithSlotCopy(keep)) {
    DropCopy(copied);
  } else if (Session* idle = lists_->IdleInRam(keep)) {
    EvictForGood(idle, "evicted: session memory is full");
  } else if (Session* answered = lists_->WithLongAnswer(keep)) {
    DropAnswer(answered);
  } else {
    return false;
  }
  return true;
}

void SessionStore::Trim(const Session* keep) {
  while (true) {
    Lock lock(this);
    const Room room = MakeRoom(0, keep);
    if (room == Room::kFits) return;
    if (room == Room::kNotYet) continue;
    Session* const idle = lists_->IdleInSlot(keep);
    if (idle == nullptr) return;
    EvictForGood(idle, "evicted: session memory is full");
  }
}

void SessionStore::DropAnswer(Session* session) {
  const Relisting relisting(this, session);
  discarded_.push_back(std::exchange(session->record, nullptr));
}

void SessionStore::DropCopy(Session* session) {
  const Relisting relisting(this, session);
  discarded_.push_back(std::exchange(session->block, nullptr));
}

// --- Sessions as users see them.

SessionHandle SessionStore::Make(NewSession created) const {
  auto session = std::make_shared<Session>();
  session->id = std::move(created.session_id);
  session->model = created.model;
  session->labels =
      std::make_shared<const SessionLabels>(std::move(created.labels));
  session->label_bytes = LabelBytes(*session->labels);
  session->time_to_live = created.time_to_live.value_or(limits_.time_to_live);
  return session;
}

absl::Status SessionStore::Insert(const SessionHandle& session) {
  if (sessions_.size() >= static_cast<size_t>(limits_.sessions)) {
    Session* const leaving = lists_->Idle();
    if (leaving == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("there are ", sessions_.size(),
                       " sessions with running turns, limit ", limits_.sessions,
                       " (--max-sessions)"));
    }
    EvictForGood(leaving, "evicted: too many sessions");
  }
  Use(session.get());
  session->create_time = session->last_used;
  departed_.Erase(session->id);
  sessions_.emplace(session->id, session);
  models_[session->model].by_id.emplace(session->id, session.get());
  Enlist(session.get());
  return absl::OkStatus();
}

absl::StatusOr<SessionInfo> SessionStore::Create(NewSession created) {
  const SessionHandle session = Make(std::move(created));
  SessionInfo info;
  {
    Lock lock(this);
    if (sessions_.contains(session->id)) {
      return absl::AlreadyExistsError(
          absl::StrCat("session ", Quoted(session->id), " exists"));
    }
    ENGRAM_RETURN_IF_ERROR(Insert(session));
    info = Describe(*session);
  }
  Trim(session.get());
  return info;
}

absl::StatusOr<SessionInfo> SessionStore::InstallFork(
    const SessionHandle& source, const std::string& new_session_id,
    const CommittedTurns& turns, std::shared_ptr<const StateBlock> block) {
  NewSession made;
  made.session_id = new_session_id;
  made.model = source->model;
  made.time_to_live = source->time_to_live;
  const SessionHandle session = Make(std::move(made));
  session->labels = source->labels;
  session->label_bytes = source->label_bytes;
  session->turns = turns;
  session->remembered = RememberedTurns(turns.version);
  session->block = std::move(block);

  while (true) {
    Lock lock(this);
    if (sessions_.contains(session->id)) {
      return absl::AlreadyExistsError(
          absl::StrCat("session ", Quoted(session->id), " exists"));
    }
    const size_t bytes =
        session->own_bytes() + ledger_->BytesToHold(session->block.get());
    const Room room = MakeRoom(bytes, source.get());
    if (room == Room::kNotYet) continue;
    if (room == Room::kNone) {
      return absl::ResourceExhaustedError(
          absl::StrCat("session memory of ", limits_.memory_bytes,
                       " bytes has no room for a fork of ", bytes, " bytes"));
    }
    ENGRAM_RETURN_IF_ERROR(Insert(session));
    ++ledger_->counts(session->model).forks;
    return Describe(*session);
  }
}

absl::StatusOr<SessionInfo> SessionStore::Get(
    const std::string& session_id) const {
  absl::MutexLock lock(&mutex_);
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle session, FindCommitted(session_id));
  return Describe(*session);
}

std::vector<SessionInfo> SessionStore::List(int model, const std::string& after,
                                            int count) const {
  std::vector<SessionInfo> page;
  std::string last = after;
  while (static_cast<int>(page.size()) < count &&
         ListSome(model, count - page.size(), &last, &page)) {
  }
  return page;
}

bool SessionStore::ListSome(int model, size_t count, std::string* after,
                            std::vector<SessionInfo>* page) const {
  // From one map or the other, which are alike.
  const auto list =
      [&](const auto& sessions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        size_t seen = 0;
        auto next = sessions.upper_bound(*after);
        for (; next != sessions.end() && count > 0 && seen < kListedPerLock;
             ++next, ++seen) {
          const Session& session = *next->second;
          *after = session.id;
          // One that its first turn has not committed yet is nobody's business.
          if (session.made_by_turn) continue;
          page->push_back(Describe(session));
          --count;
        }
        return next != sessions.end();
      };
  absl::MutexLock lock(&mutex_);
  return model < 0 ? list(sessions_) : list(models_[model].by_id);
}

absl::Status SessionStore::Delete(const std::string& session_id) {
  std::function<void(absl::Status)> cancel_turn;
  {
    Lock lock(this);
    const auto found = sessions_.find(session_id);
    if (found == sessions_.end()) {
      // Its owner says that the loss is known.
      if (departed_.Erase(session_id)) return absl::OkStatus();
      return FindLocked(session_id).status();
    }
    const SessionHandle session = found->second;
    cancel_turn = std::move(session->cancel_turn);
    Remove(session);
  }
  if (cancel_turn) {
    cancel_turn(absl::CancelledError(
        absl::StrCat("session ", Quoted(session_id), " was deleted")));
  }
  return absl::OkStatus();
}

absl::StatusOr<SessionHandle> SessionStore::Find(
    const std::string& session_id) const {
  absl::MutexLock lock(&mutex_);
  return FindCommitted(session_id);
}

absl::StatusOr<SessionHandle> SessionStore::FindOfModel(
    const std::string& session_id, int model) const {
  absl::MutexLock lock(&mutex_);
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle session, FindCommitted(session_id));
  ENGRAM_RETURN_IF_ERROR(CheckModel(*session, model));
  return session;
}

absl::StatusOr<int> SessionStore::ModelOf(const std::string& session_id) const {
  absl::MutexLock lock(&mutex_);
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle session, FindLocked(session_id));
  return session->model;
}

absl::StatusOr<SessionHandle> SessionStore::FindLocked(
    const std::string& session_id) const {
  const auto found = sessions_.find(session_id);
  if (found != sessions_.end()) return found->second;
  if (const std::string* reason = departed_.ReasonOf(session_id)) {
    return absl::NotFoundError(
        absl::StrCat("session ", Quoted(session_id), " is gone, ", *reason,
                     "; Create or Delete it to start anew"));
  }
  return absl::NotFoundError(
      absl::StrCat("there is no session ", Quoted(session_id)));
}

absl::StatusOr<SessionHandle> SessionStore::FindCommitted(
    const std::string& session_id) const {
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle session, FindLocked(session_id));
  if (session->made_by_turn) {
    return absl::NotFoundError(absl::StrCat(
        "session ", Quoted(session_id),
        " is in its first turn; it is there once ", "that has committed"));
  }
  return session;
}

// --- Ends.

void SessionStore::Remove(const SessionHandle& session) {
  Unlist(session.get());
  if (session->running) EndTurn(session.get());
  session->deleted = true;
  if (session->slot >= 0) {
    models_[session->model].released.push_back(session->slot);
  }
  session->slot = -1;
  models_[session->model].by_id.erase(session->id);
  sessions_.erase(session->id);
  discarded_.push_back(std::exchange(session->block, nullptr));
  discarded_.push_back(session);
}

void SessionStore::EvictForGood(Session* session, std::string reason) {
  ++ledger_->counts(session->model).evictions_for_good;
  Depart(session, std::move(reason));
}

void SessionStore::Depart(Session* session, std::string reason) {
  if (session->turns.position > 0) {
    departed_.Add(session->id, std::move(reason));
  }
  const SessionHandle handle = sessions_.find(session->id)->second;
  Remove(handle);
}

bool SessionStore::Sweep() {
  Lock lock(this);
  const absl::Time now = clock_->Now();
  for (int left = kDroppedPerLock;; --left) {
    const auto [session, time] = lists_->Expired(now);
    if (session == nullptr) return true;
    if (left == 0) return false;
    ++ledger_->counts(session->model).expirations;
    Depart(session, absl::StrCat("expired at ", absl::FormatTime(time)));
  }
}

void SessionStore::Unlist(Session* session) {
  ledger_->Discount(session);
  lists_->Unlist(session);
}

void SessionStore::Enlist(Session* session) {
  ledger_->Count(session);
  lists_->Enlist(session);
}

SessionInfo SessionStore::Describe(const Session& session) const {
  SessionInfo info;
  info.session_id = session.id;
  info.model = models_[session.model].name;
  info.version = session.turns.version;
  info.position = session.turns.position;
  info.pending_token = session.turns.pending.has_value();
  info.tier = session.slot >= 0          ? "slot"
              : session.block != nullptr ? "ram"
                                         : "none";
  info.state_bytes = ledger_->StateBytes(session);
  info.create_time = session.create_time;
  info.last_used_time = session.last_used;
  info.expire_time = session.last_used + session.time_to_live;
  info.labels = session.labels;
  return info;
}

void SessionStore::CountRestore(int model) {
  absl::MutexLock lock(&mutex_);
  ++ledger_->counts(model).restores;
}

SessionCounts SessionStore::Counts() const {
  absl::MutexLock lock(&mutex_);
  SessionCounts counts = ledger_->Counts();
  counts.departed_bytes = departed_.bytes();
  return counts;
}

}  // namespace engram
