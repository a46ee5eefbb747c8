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

namespace engram {
namespace {

// Answers of up to so many bytes are not dropped one by one: it would gain
// little.
constexpr size_t kSmallAnswer = 64 << 10;
// What a session's own fields take, roughly, before its client adds to them.
constexpr size_t kSessionBytes = 1024;
// Sessions that are told of, or leave, while the lock is held once: some dozen
// microseconds of work.
constexpr size_t kListedPerLock = 128;
constexpr int kDroppedPerLock = 64;

// The first of `sessions` but for `keep`; nullptr if there is none.
Session* FirstBut(const SessionsByUse& sessions, const Session* keep) {
  for (const auto& [use, session] : sessions) {
    if (session != keep) return session;
  }
  return nullptr;
}

// Of the memory, for states of sequences that have given up their slots.
constexpr size_t kShareOfParked = 4;

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

SessionStore::SessionStore(const SessionLimits& limits, Clock* clock)
    : limits_(limits), clock_(clock), departed_(limits.departed) {}

SessionStore::~SessionStore() = default;

int SessionStore::AddModel(const std::string& name,
                           const ModelCapacity& capacity) {
  absl::MutexLock lock(&mutex_);
  // Lists must not move once sessions point at them.
  ENGRAM_CHECK(sessions_.empty());
  ModelSessions model;
  model.name = name;
  model.capacity = capacity;
  models_.push_back(std::move(model));
  return static_cast<int>(models_.size()) - 1;
}

// --- Turns.

absl::StatusOr<SessionStore::TurnOrRecord> SessionStore::BeginTurn(
    int model, const Request& request,
    std::function<void(absl::Status)> cancel_turn,
    const absl::Status& may_queue) {
  const uint64_t digest = ShortDigest(request.request_id);
  SessionHandle session;  // freed after the lock
  Lock lock(this);
  const auto found = sessions_.find(request.session_id);
  if (found != sessions_.end()) {
    session = found->second;
    // A record is of a turn of the session's own model.
    ENGRAM_RETURN_IF_ERROR(CheckModel(*session, model));
    ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<const TurnRecord> record,
                            FindReplay(*session, request, digest));
    if (record != nullptr) return TurnOrRecord(std::move(record));
    ENGRAM_RETURN_IF_ERROR(CheckMayRun(*session, request));
    ENGRAM_RETURN_IF_ERROR(may_queue);
  } else {
    if (departed_.ReasonOf(request.session_id) != nullptr) {
      return FindLocked(request.session_id).status();
    }
    NewSession made;
    made.session_id = request.session_id;
    made.model = model;
    session = Make(std::move(made));
    ENGRAM_RETURN_IF_ERROR(CheckMayRun(*session, request));
    // Making it may send another session away.
    ENGRAM_RETURN_IF_ERROR(may_queue);
    ENGRAM_RETURN_IF_ERROR(Insert(session));
    session->made_by_turn = true;
  }

  const size_t reserve = StateBytes(*session);
  if (reserved_bytes_ + reserve > limits_.memory_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "session memory of ", limits_.memory_bytes, " bytes is reserved for ",
        "turns that are running; try again later or raise --session-memory"));
  }
  Unlist(session.get());
  session->running = true;
  session->reserved_bytes = reserve;
  reserved_bytes_ += reserve;
  session->cancel_turn = std::move(cancel_turn);
  Enlist(session.get());
  return TurnOrRecord(Turn{session, session->turns});
}

absl::StatusOr<std::shared_ptr<const TurnRecord>> SessionStore::FindReplay(
    const Session& session, const Request& request, uint64_t digest) const {
  const auto& record = session.record;
  if (record != nullptr && record->request_id == request.request_id) {
    if (record->identity != request.identity) {
      return absl::InvalidArgumentError(
          absl::StrCat("request_id ", Quoted(request.request_id),
                       " was used for another request on session ",
                       Quoted(session.id), "; a new request needs a new id"));
    }
    return record;
  }
  if (const auto version = session.remembered.Find(digest)) {
    return absl::AlreadyExistsError(absl::StrCat(
        "request_id ", Quoted(request.request_id), " has committed as version ",
        *version, " of session ", Quoted(session.id), ", which is at version ",
        session.turns.version, "; its answer is no longer kept"));
  }
  ENGRAM_RETURN_IF_ERROR(CheckIsNew(session, request));
  return nullptr;
}

absl::Status SessionStore::CheckIsNew(const Session& session,
                                      const Request& request) const {
  const int64_t forgotten = session.remembered.forgotten();
  // What expects the present version has not committed: it would be another.
  if (forgotten == 0 || request.expected_version.has_value()) {
    return absl::OkStatus();
  }
  // An id made at a version commits as a later one.
  const auto made_at = VersionOfRequestId(session.id, request.request_id);
  if (made_at.has_value() && *made_at >= forgotten) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("session ", Quoted(session.id),
                   " has forgotten the request_ids up to version ", forgotten,
                   " (it remembers ", limits_.remembered_turns,
                   ", --remembered-turns), and ", Quoted(request.request_id),
                   " may be one of them: send expected_version, which is ",
                   session.turns.version, ", or leave request_id out"));
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

absl::Status SessionStore::CheckMayRun(const Session& session,
                                       const Request& request) const {
  if (session.running) {
    return absl::AbortedError(absl::StrCat("session ", Quoted(session.id),
                                           " has a turn that is running"));
  }
  if (request.expected_version.has_value() &&
      *request.expected_version != session.turns.version) {
    return absl::FailedPreconditionError(absl::StrCat(
        "session ", Quoted(session.id), " has version ", session.turns.version,
        ", expected_version is ", *request.expected_version));
  }
  if (request.prompt.empty() && !session.turns.pending.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt is empty and session ", Quoted(session.id),
                     " has no pending token to go on from"));
  }
  return CheckLengthOf(session, request);
}

absl::Status SessionStore::CheckLengthOf(const Session& session,
                                         const Request& request) const {
  const ModelCapacity& capacity = models_[session.model].capacity;
  const int64_t before = session.turns.tokens();
  ENGRAM_RETURN_IF_ERROR(CheckLength(capacity, before, request));
  // States of one size fit, which was seen at start. One that has grown beyond
  // what RAM can hold would be lost when its slot is needed.
  if (capacity.kv_block_bytes == 0) return absl::OkStatus();
  const int64_t tokens = TokensInTheEnd(before, request);
  const size_t bytes = capacity.StateBytes(tokens) + kSessionBytes;
  if (bytes <= limits_.memory_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the session could come to ", tokens, " tokens, with which it takes ",
      bytes, " bytes, limit ", limits_.memory_bytes, " (--session-memory)"));
}

bool SessionStore::Commit(const SessionHandle& session, CommittedTurns turns,
                          int slot, TurnRecord record,
                          std::shared_ptr<const StateBlock> block) {
  const uint64_t digest = ShortDigest(record.request_id);
  std::shared_ptr<const TurnRecord> kept;
  if (record.complete && record.bytes() <= limits_.answer_bytes) {
    kept = std::make_shared<const TurnRecord>(std::move(record));
  }
  {
    Lock lock(this);
    if (session->deleted) return false;
    ENGRAM_CHECK(session->running);
    Unlist(session.get());
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
    Enlist(session.get());
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
    Unlist(session.get());
    EndTurn(session.get());
    Enlist(session.get());
  }
  // Its state may lie in RAM and has lost its reservation.
  Trim(session.get());
}

void SessionStore::EndTurn(Session* session) {
  session->running = false;
  session->cancel_turn = nullptr;
  reserved_bytes_ -= session->reserved_bytes;
  session->reserved_bytes = 0;
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
  const ModelSessions& of_model = models_[model];
  const SessionsByUse& list = of_model.idle_in_slots.empty()
                                  ? of_model.running_in_slots
                                  : of_model.idle_in_slots;
  if (list.empty()) return std::nullopt;
  const Session* session = list.begin()->second;
  return Resident{sessions_.find(session->id)->second, session->slot,
                  session->block};
}

bool SessionStore::MoveToRam(const SessionHandle& session, int slot,
                             std::shared_ptr<const StateBlock> block) {
  {
    Lock lock(this);
    if (session->deleted || session->slot != slot) return false;
    ModelSessions& model = models_[session->model];
    Unlist(session.get());
    session->slot = -1;
    discarded_.push_back(std::exchange(session->block, std::move(block)));
    Enlist(session.get());
    ++model.counts.evictions_slot_to_ram;
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
  if (ram_bytes_ + BytesToHold(block.get()) > limits_.memory_bytes) return;
  Unlist(session.get());
  session->block = std::move(block);
  Enlist(session.get());
}

bool SessionStore::HoldForParked(size_t bytes) {
  {
    Lock lock(this);
    if (parked_bytes_ + bytes > limits_.memory_bytes / kShareOfParked ||
        reserved_bytes_ + bytes > limits_.memory_bytes) {
      return false;
    }
    parked_bytes_ += bytes;
    reserved_bytes_ += bytes;
    ram_bytes_ += bytes;
  }
  Trim(nullptr);
  return true;
}

void SessionStore::ReleaseParked(size_t bytes) {
  Lock lock(this);
  parked_bytes_ -= bytes;
  reserved_bytes_ -= bytes;
  ram_bytes_ -= bytes;
}

std::vector<int> SessionStore::ReleasedSlots(int model) {
  absl::MutexLock lock(&mutex_);
  return std::exchange(models_[model].released, {});
}

// --- Room.

SessionStore::Room SessionStore::MakeRoom(size_t bytes, const Session* keep) {
  if (bytes > limits_.memory_bytes) return Room::kNone;
  int left = kDroppedPerLock;
  while (ram_bytes_ + bytes > limits_.memory_bytes) {
    if (left-- == 0) return Room::kNotYet;
    if (!DropOne(keep)) return Room::kNone;
  }
  return Room::kFits;
}

bool SessionStore::DropOne(const Session* keep) {
  if (Session* copied = FirstBut(slot_copies_, keep)) {
    DropCopy(copied);
  } else if (Session* idle = FirstBut(idle_in_ram_, keep)) {
    EvictForGood(idle, "evicted: session memory is full");
  } else if (Session* answered = FirstBut(long_answers_, keep)) {
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
    Session* const idle = LeastRecentlyUsedInSlots(keep);
    if (idle == nullptr) return;
    EvictForGood(idle, "evicted: session memory is full");
  }
}

void SessionStore::DropAnswer(Session* session) {
  Unlist(session);
  discarded_.push_back(std::exchange(session->record, nullptr));
  Enlist(session);
}

void SessionStore::DropCopy(Session* session) {
  Unlist(session);
  discarded_.push_back(std::exchange(session->block, nullptr));
  Enlist(session);
}

Session* SessionStore::LeastRecentlyUsedInSlots(const Session* keep) const {
  Session* least = nullptr;
  for (const ModelSessions& model : models_) {
    Session* const first = FirstBut(model.idle_in_slots, keep);
    if (first != nullptr && (least == nullptr || first->use < least->use)) {
      least = first;
    }
  }
  return least;
}

Session* SessionStore::LeastRecentlyUsed() const {
  Session* const in_ram = FirstBut(idle_in_ram_, nullptr);
  Session* const in_slot = LeastRecentlyUsedInSlots(nullptr);
  if (in_ram == nullptr || in_slot == nullptr) {
    return in_ram == nullptr ? in_slot : in_ram;
  }
  return in_ram->use < in_slot->use ? in_ram : in_slot;
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
    Session* const leaving = LeastRecentlyUsed();
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
        session->own_bytes() + BytesToHold(session->block.get());
    const Room room = MakeRoom(bytes, source.get());
    if (room == Room::kNotYet) continue;
    if (room == Room::kNone) {
      return absl::ResourceExhaustedError(
          absl::StrCat("session memory of ", limits_.memory_bytes,
                       " bytes has no room for a fork of ", bytes, " bytes"));
    }
    ENGRAM_RETURN_IF_ERROR(Insert(session));
    ++models_[session->model].counts.forks;
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
  ++models_[session->model].counts.evictions_for_good;
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
  for (int left = kDroppedPerLock; !expiries_.empty(); --left) {
    const auto& [expiry, session] = *expiries_.begin();
    const absl::Time time = expiry.first;
    if (time > now) break;
    if (left == 0) return false;
    ++models_[session->model].counts.expirations;
    Depart(session, absl::StrCat("expired at ", absl::FormatTime(time)));
  }
  return true;
}

// --- Lists and bytes.

size_t SessionStore::StateBytes(const Session& session) const {
  return models_[session.model].capacity.StateBytes(session.turns.position);
}

size_t SessionStore::BytesToHold(const StateBlock* block) const {
  return block == nullptr || holders_.contains(block) ? 0 : block->bytes();
}

void SessionStore::CountPlace(const Session& session, int sign) {
  SessionCounts::PerModel& counts = models_[session.model].counts;
  if (session.slot >= 0) {
    counts.sessions_in_slots += sign;
    counts.state_bytes_in_slots += StateBytes(session) * sign;
  } else if (session.block != nullptr) {
    counts.sessions_in_ram += sign;
  } else {
    counts.sessions_empty += sign;
  }
}

void SessionStore::Count(Session* session) {
  SessionCounts::PerModel& counts = models_[session->model].counts;
  CountPlace(*session, 1);
  session->counted_bytes = session->own_bytes();
  counts.own_bytes += session->counted_bytes;
  ram_bytes_ += session->counted_bytes;
  if (session->block != nullptr && ++holders_[session->block.get()] == 1) {
    counts.state_bytes_in_ram += session->block->size();
    ram_bytes_ += session->block->bytes();
  }
}

void SessionStore::Discount(Session* session) {
  SessionCounts::PerModel& counts = models_[session->model].counts;
  CountPlace(*session, -1);
  counts.own_bytes -= session->counted_bytes;
  ram_bytes_ -= session->counted_bytes;
  if (session->block == nullptr) return;
  const auto holders = holders_.find(session->block.get());
  if (--holders->second > 0) return;
  holders_.erase(holders);
  counts.state_bytes_in_ram -= session->block->size();
  ram_bytes_ -= session->block->bytes();
}

void SessionStore::Unlist(Session* session) {
  Discount(session);
  if (session->residence != nullptr) session->residence->erase(session->use);
  session->residence = nullptr;
  long_answers_.erase(session->use);
  slot_copies_.erase(session->use);
  expiries_.erase({session->last_used + session->time_to_live, session->use});
}

void SessionStore::Enlist(Session* session) {
  Count(session);
  ModelSessions& model = models_[session->model];
  if (session->slot >= 0) {
    session->residence =
        session->running ? &model.running_in_slots : &model.idle_in_slots;
  } else if (!session->running) {
    session->residence = &idle_in_ram_;
  }
  if (session->residence != nullptr) {
    session->residence->emplace(session->use, session);
  }
  if (session->record != nullptr && session->record->bytes() > kSmallAnswer) {
    long_answers_.emplace(session->use, session);
  }
  if (session->has_slot_copy()) slot_copies_.emplace(session->use, session);
  if (!session->running) {
    expiries_.emplace(std::make_pair(session->last_used + session->time_to_live,
                                     session->use),
                      session);
  }
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
  info.state_bytes = StateBytes(session);
  info.create_time = session.create_time;
  info.last_used_time = session.last_used;
  info.expire_time = session.last_used + session.time_to_live;
  info.labels = session.labels;
  return info;
}

void SessionStore::CountRestore(int model) {
  absl::MutexLock lock(&mutex_);
  ++models_[model].counts.restores;
}

SessionCounts SessionStore::Counts() const {
  absl::MutexLock lock(&mutex_);
  SessionCounts counts;
  for (const ModelSessions& model : models_) {
    counts.models.push_back(model.counts);
  }
  counts.ram_bytes = ram_bytes_;
  counts.departed_bytes = departed_.bytes();
  counts.parked_bytes = parked_bytes_;
  return counts;
}

}  // namespace engram
