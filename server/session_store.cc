#include "server/session_store.h"

#include <algorithm>
#include <iterator>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "kernels/status.h"

namespace engram {
namespace {

// Ids of turns that are remembered after their answers are gone.
constexpr size_t kRememberedTurns = 64;
// Answers of up to so many bytes are kept for a repeat in any case: there are no
// more of them in slots than there are slots.
constexpr size_t kSmallAnswer = 64 << 10;
// What a session's own fields take, roughly; so that empty sessions count too.
constexpr size_t kSessionBytes = 1024;

}  // namespace

// Guarded by the store's mutex but for the first group.
struct Session {
  // Constant.
  std::string id;
  int model = 0;
  absl::Time create_time;
  absl::Duration time_to_live;
  std::map<std::string, std::string> labels;

  CommittedTurns turns;
  int slot = -1;
  std::shared_ptr<const StateBlock> block;
  std::shared_ptr<const TurnRecord> record;
  std::deque<std::pair<std::string, int64_t>> remembered;  // request_id, version
  absl::Time last_used;

  bool running = false;
  bool made_by_turn = false;  // the running turn; gone if it does not commit
  bool deleted = false;
  size_t reserved_bytes = 0;
  std::function<void(absl::Status)> cancel_turn;

  // Where it is listed, while it is.
  std::list<Session*>* list = nullptr;
  std::list<Session*>::iterator place;
  size_t counted_bytes = 0;  // its share of ram_bytes_
};

absl::Status CheckId(absl::string_view field, absl::string_view id) {
  if (id.empty() || id.size() > 128) {
    return absl::InvalidArgumentError(absl::StrCat(
        field, " has ", id.size(), " characters, limit 1 to 128"));
  }
  for (char c : id) {
    if (!absl::ascii_isalnum(c) && c != '.' && c != '_' && c != ':' &&
        c != '-') {
      return absl::InvalidArgumentError(
          absl::StrCat(field, " \"", id,
                       "\" has a character outside [A-Za-z0-9._:-]"));
    }
  }
  return absl::OkStatus();
}

std::string RandomId() {
  absl::BitGen random;
  return absl::StrFormat("%016x%016x", absl::Uniform<uint64_t>(random),
                         absl::Uniform<uint64_t>(random));
}

size_t TurnRecord::bytes() const {
  size_t total = tokens.size() * sizeof(int32_t) + logprobs.size() * sizeof(float);
  for (const auto& alternatives : top) {
    total += sizeof(alternatives) + alternatives.size() * sizeof(LogProbability);
  }
  return total;
}

SessionStore::SessionStore(const SessionLimits& limits, Clock* clock)
    : limits_(limits), clock_(clock) {}

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
  absl::MutexLock lock(&mutex_);
  const absl::StatusOr<SessionHandle> found = FindLocked(request.session_id);
  SessionHandle session;
  if (found.ok()) {
    session = *found;
    // A record is of a turn of the session's own model.
    ENGRAM_RETURN_IF_ERROR(CheckModel(*session, model));
    ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<const TurnRecord> record,
                            FindReplay(*session, request));
    if (record != nullptr) return TurnOrRecord(std::move(record));
    ENGRAM_RETURN_IF_ERROR(CheckMayRun(*session, request));
    ENGRAM_RETURN_IF_ERROR(may_queue);
  } else {
    if (departed_.contains(request.session_id)) return found.status();
    Session fresh;
    fresh.id = request.session_id;
    fresh.model = model;
    ENGRAM_RETURN_IF_ERROR(CheckMayRun(fresh, request));
    // Making it may send another session away.
    ENGRAM_RETURN_IF_ERROR(may_queue);
    NewSession made;
    made.session_id = request.session_id;
    made.model = model;
    ENGRAM_ASSIGN_OR_RETURN(session, Insert(std::move(made)));
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
    const Session& session, const Request& request) const {
  const auto& record = session.record;
  if (record != nullptr && record->request_id == request.request_id) {
    if (record->identity != request.identity) {
      return absl::InvalidArgumentError(
          absl::StrCat("request_id \"", request.request_id,
                       "\" was used for another request on session \"",
                       session.id, "\"; a new request needs a new id"));
    }
    return record;
  }
  for (const auto& [request_id, version] : session.remembered) {
    if (request_id == request.request_id) {
      return absl::AlreadyExistsError(absl::StrCat(
          "request_id \"", request_id, "\" has committed as version ", version,
          " of session \"", session.id, "\", which is at version ",
          session.turns.version, "; its answer is no longer kept"));
    }
  }
  return nullptr;
}

absl::Status SessionStore::CheckModel(const Session& session,
                                      int model) const {
  if (session.model == model) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "session \"", session.id, "\" belongs to model \"",
      models_[session.model].name, "\", not \"", models_[model].name, "\""));
}

absl::Status SessionStore::CheckMayRun(const Session& session,
                                       const Request& request) const {
  if (session.running) {
    return absl::AbortedError(absl::StrCat("session \"", session.id,
                                           "\" has a turn that is running"));
  }
  if (request.expected_version.has_value() &&
      *request.expected_version != session.turns.version) {
    return absl::FailedPreconditionError(absl::StrCat(
        "session \"", session.id, "\" has version ", session.turns.version,
        ", expected_version is ", *request.expected_version));
  }
  if (request.prompt.empty() && !session.turns.pending.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt is empty and session \"", session.id,
                     "\" has no pending token to go on from"));
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
                          int slot, TurnRecord record) {
  absl::MutexLock lock(&mutex_);
  if (session->deleted) return false;
  ENGRAM_CHECK(session->running);
  Unlist(session.get());
  if (session->slot >= 0) {
    models_[session->model].released.push_back(session->slot);
  }
  session->slot = slot;
  session->block = nullptr;
  session->turns = std::move(turns);
  Remember(session.get());
  session->record = std::make_shared<const TurnRecord>(std::move(record));
  session->made_by_turn = false;
  EndTurn(session.get());
  Enlist(session.get());
  MakeRoom(0, session.get());
  return true;
}

void SessionStore::Abort(const SessionHandle& session) {
  absl::MutexLock lock(&mutex_);
  if (session->deleted) return;
  ENGRAM_CHECK(session->running);
  Unlist(session.get());
  EndTurn(session.get());
  Enlist(session.get());
  if (session->made_by_turn) return Remove(session);
  // Its state may lie in RAM and has lost its reservation.
  MakeRoom(0, session.get());
}

void SessionStore::EndTurn(Session* session) {
  session->running = false;
  session->cancel_turn = nullptr;
  reserved_bytes_ -= session->reserved_bytes;
  session->reserved_bytes = 0;
  session->last_used = clock_->Now();
}

// --- States.

absl::StatusOr<SessionStore::Location> SessionStore::Locate(
    const SessionHandle& session) const {
  absl::MutexLock lock(&mutex_);
  if (session->deleted) {
    return absl::NotFoundError(
        absl::StrCat("session \"", session->id, "\" was deleted"));
  }
  return Location{session->turns, session->slot, session->block};
}

std::optional<SessionStore::Resident> SessionStore::EvictionCandidate(
    int model) const {
  absl::MutexLock lock(&mutex_);
  const ModelSessions& of_model = models_[model];
  const SessionList& list = of_model.idle_in_slots.empty()
                                ? of_model.running_in_slots
                                : of_model.idle_in_slots;
  if (list.empty()) return std::nullopt;
  const Session* session = list.front();
  return Resident{sessions_.find(session->id)->second, session->slot};
}

bool SessionStore::MoveToRam(const SessionHandle& session, int slot,
                             std::shared_ptr<const StateBlock> block) {
  absl::MutexLock lock(&mutex_);
  if (session->deleted || session->slot != slot) return false;
  ModelSessions& model = models_[session->model];
  Unlist(session.get());
  session->slot = -1;
  session->block = std::move(block);
  Enlist(session.get());
  ++model.counts.evictions_slot_to_ram;
  // May be this very session's end, if it is the one used least recently. A
  // turn's reservation always finds room.
  MakeRoom(0, nullptr);
  return true;
}

std::vector<int> SessionStore::ReleasedSlots(int model) {
  absl::MutexLock lock(&mutex_);
  return std::exchange(models_[model].released, {});
}

bool SessionStore::MakeRoom(size_t bytes, const Session* keep) {
  const auto fits = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ram_bytes_ + bytes <= limits_.memory_bytes;
  };
  auto next = idle_in_ram_.begin();
  while (!fits() && next != idle_in_ram_.end()) {
    Session* session = *next++;
    if (session == keep) continue;
    EvictForGood(session, "evicted: session memory is full");
  }
  for (size_t i = 0; i < models_.size() && !fits(); ++i) {
    // A copy: forgetting lists the session anew.
    for (Session* session : SessionList(models_[i].idle_in_slots)) {
      if (fits()) break;
      ForgetAnswer(session);
    }
  }
  return fits();
}

void SessionStore::ForgetAnswer(Session* session) {
  if (session->record == nullptr || session->record->bytes() <= kSmallAnswer) {
    return;
  }
  Unlist(session);
  Remember(session);
  session->record = nullptr;
  Enlist(session);
}

void SessionStore::Remember(Session* session) {
  if (session->record == nullptr) return;
  session->remembered.emplace_back(session->record->request_id,
                                   session->record->version);
  // The last turn's own record is the 64th.
  while (session->remembered.size() >= kRememberedTurns) {
    session->remembered.pop_front();
  }
}

// --- Sessions as users see them.

absl::StatusOr<SessionHandle> SessionStore::Insert(NewSession created) {
  if (sessions_.size() >= static_cast<size_t>(limits_.sessions)) {
    Session* const leaving = LeastRecentlyUsed();
    if (leaving == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "there are ", sessions_.size(), " sessions with running turns, limit ",
          limits_.sessions, " (--max-sessions)"));
    }
    EvictForGood(leaving, "evicted: too many sessions");
  }
  auto session = std::make_shared<Session>();
  session->id = std::move(created.session_id);
  session->model = created.model;
  session->labels = std::move(created.labels);
  session->time_to_live = created.time_to_live.value_or(limits_.time_to_live);
  session->create_time = session->last_used = clock_->Now();
  sessions_.emplace(session->id, session);
  Enlist(session.get());
  return session;
}

absl::StatusOr<SessionInfo> SessionStore::Create(NewSession created) {
  absl::MutexLock lock(&mutex_);
  if (sessions_.contains(created.session_id)) {
    return absl::AlreadyExistsError(
        absl::StrCat("session \"", created.session_id, "\" exists"));
  }
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle session, Insert(std::move(created)));
  departed_.erase(session->id);
  MakeRoom(0, session.get());
  return Describe(*session);
}

absl::StatusOr<SessionInfo> SessionStore::InstallFork(
    const SessionHandle& source, const std::string& new_session_id,
    const CommittedTurns& turns, std::shared_ptr<const StateBlock> block) {
  absl::MutexLock lock(&mutex_);
  if (sessions_.contains(new_session_id)) {
    return absl::AlreadyExistsError(
        absl::StrCat("session \"", new_session_id, "\" exists"));
  }
  const size_t bytes = kSessionBytes +
                       (block == nullptr ? 0 : block->size()) +
                       (turns.seen == nullptr ? 0 : turns.seen->bytes());
  if (!MakeRoom(bytes, source.get())) {
    return absl::ResourceExhaustedError(
        absl::StrCat("session memory of ", limits_.memory_bytes,
                     " bytes has no room for a fork of ", bytes, " bytes"));
  }
  NewSession made;
  made.session_id = new_session_id;
  made.model = source->model;
  made.time_to_live = source->time_to_live;
  made.labels = source->labels;
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle session, Insert(std::move(made)));
  departed_.erase(new_session_id);
  Unlist(session.get());
  session->turns = turns;
  session->block = std::move(block);
  Enlist(session.get());
  ++models_[session->model].counts.forks;
  return Describe(*session);
}

absl::StatusOr<SessionInfo> SessionStore::Get(
    const std::string& session_id) const {
  absl::MutexLock lock(&mutex_);
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle session, FindCommitted(session_id));
  return Describe(*session);
}

std::vector<SessionInfo> SessionStore::List(int model,
                                            const std::string& after,
                                            int count) const {
  absl::MutexLock lock(&mutex_);
  std::vector<SessionInfo> page;
  for (auto next = sessions_.upper_bound(after);
       next != sessions_.end() && static_cast<int>(page.size()) < count;
       ++next) {
    // A session that its first turn has not committed yet is nobody's business.
    if (next->second->made_by_turn) continue;
    if (model >= 0 && next->second->model != model) continue;
    page.push_back(Describe(*next->second));
  }
  return page;
}

absl::Status SessionStore::Delete(const std::string& session_id) {
  std::function<void(absl::Status)> cancel_turn;
  {
    absl::MutexLock lock(&mutex_);
    auto found = sessions_.find(session_id);
    if (found == sessions_.end()) {
      // Its owner says that the loss is known.
      if (departed_.erase(session_id) > 0) return absl::OkStatus();
      return FindLocked(session_id).status();
    }
    SessionHandle session = found->second;
    cancel_turn = std::move(session->cancel_turn);
    Remove(session);
  }
  if (cancel_turn) {
    cancel_turn(absl::CancelledError(
        absl::StrCat("session \"", session_id, "\" was deleted")));
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
  auto found = sessions_.find(session_id);
  if (found != sessions_.end()) return found->second;
  auto departed = departed_.find(session_id);
  if (departed != departed_.end()) {
    return absl::NotFoundError(
        absl::StrCat("session \"", session_id, "\" is gone, ",
                     departed->second.reason, "; Create or Delete it to start anew"));
  }
  return absl::NotFoundError(
      absl::StrCat("there is no session \"", session_id, "\""));
}

absl::StatusOr<SessionHandle> SessionStore::FindCommitted(
    const std::string& session_id) const {
  ENGRAM_ASSIGN_OR_RETURN(SessionHandle session, FindLocked(session_id));
  if (session->made_by_turn) {
    return absl::NotFoundError(absl::StrCat(
        "session \"", session_id, "\" is in its first turn; it is there once ",
        "that has committed"));
  }
  return session;
}

Session* SessionStore::LeastRecentlyUsed() const {
  // Each list begins with its own.
  Session* least = idle_in_ram_.empty() ? nullptr : idle_in_ram_.front();
  for (const ModelSessions& model : models_) {
    if (model.idle_in_slots.empty()) continue;
    Session* const first = model.idle_in_slots.front();
    if (least == nullptr || first->last_used < least->last_used) least = first;
  }
  return least;
}

void SessionStore::Remove(const SessionHandle& session) {
  Unlist(session.get());
  if (session->running) EndTurn(session.get());
  session->deleted = true;
  if (session->slot >= 0) {
    models_[session->model].released.push_back(session->slot);
  }
  session->slot = -1;
  session->block = nullptr;
  sessions_.erase(session->id);
}

void SessionStore::EvictForGood(Session* session, std::string reason) {
  ++models_[session->model].counts.evictions_for_good;
  Depart(session, std::move(reason));
}

void SessionStore::Depart(Session* session, std::string reason) {
  if (session->turns.position > 0) {
    const int64_t serial = ++departures_;
    departed_[session->id] = Departure{std::move(reason), serial};
    departed_order_.emplace_back(session->id, serial);
    while (departed_order_.size() > static_cast<size_t>(limits_.departed)) {
      const auto& [id, oldest] = departed_order_.front();
      auto found = departed_.find(id);
      // The id may have come back and gone again since.
      if (found != departed_.end() && found->second.serial == oldest) {
        departed_.erase(found);
      }
      departed_order_.pop_front();
    }
  }
  const SessionHandle handle = sessions_.find(session->id)->second;
  Remove(handle);
}

void SessionStore::Sweep() {
  absl::MutexLock lock(&mutex_);
  const absl::Time now = clock_->Now();
  while (!expiries_.empty() && expiries_.begin()->first <= now) {
    Session* session = expiries_.begin()->second;
    ++models_[session->model].counts.expirations;
    Depart(session, absl::StrCat("expired at ",
                                 absl::FormatTime(expiries_.begin()->first)));
  }
}

// --- Lists and bytes.

size_t SessionStore::StateBytes(const Session& session) const {
  return models_[session.model].capacity.StateBytes(session.turns.position);
}

void SessionStore::Count(const Session& session, int sign) {
  SessionCounts::PerModel& counts = models_[session.model].counts;
  const size_t bytes = StateBytes(session) * sign;
  if (session.slot >= 0) {
    counts.sessions_in_slots += sign;
    counts.state_bytes_in_slots += bytes;
  } else if (session.block != nullptr) {
    counts.sessions_in_ram += sign;
    counts.state_bytes_in_ram += bytes;
  } else {
    counts.sessions_empty += sign;
  }
}

void SessionStore::Unlist(Session* session) {
  Count(*session, -1);
  ram_bytes_ -= session->counted_bytes;
  session->counted_bytes = 0;
  if (session->list != nullptr) session->list->erase(session->place);
  session->list = nullptr;
  expiries_.erase({session->last_used + session->time_to_live, session});
}

void SessionStore::Enlist(Session* session) {
  ModelSessions& model = models_[session->model];
  Count(*session, 1);
  session->counted_bytes =
      kSessionBytes + (session->block == nullptr ? 0 : session->block->size()) +
      (session->record == nullptr ? 0 : session->record->bytes()) +
      (session->turns.seen == nullptr ? 0 : session->turns.seen->bytes());
  ram_bytes_ += session->counted_bytes;
  if (session->slot >= 0) {
    session->list =
        session->running ? &model.running_in_slots : &model.idle_in_slots;
  } else if (!session->running) {
    session->list = &idle_in_ram_;
  }
  if (session->list != nullptr) {
    // Nearly always the end already.
    auto place = session->list->end();
    while (place != session->list->begin() &&
           (*std::prev(place))->last_used > session->last_used) {
      --place;
    }
    session->place = session->list->insert(place, session);
  }
  if (!session->running) {
    expiries_.insert({session->last_used + session->time_to_live, session});
  }
}

SessionInfo SessionStore::Describe(const Session& session) const {
  SessionInfo info;
  info.session_id = session.id;
  info.model = models_[session.model].name;
  info.version = session.turns.version;
  info.position = session.turns.position;
  info.pending_token = session.turns.pending.has_value();
  info.tier = session.slot >= 0            ? "slot"
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
  return counts;
}

}  // namespace engram
