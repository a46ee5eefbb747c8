// SessionStore: what every session was after its last committed turn, and who
// may run the next one.
//
// A committed state is immutable and lies in a slot of its model's StatePool
// (tier "slot") or in a block of host memory (tier "ram"). A turn runs on a
// slot of its own, beside the committed state: commit replaces the one by the
// other, and going back costs nothing. So sessions are never pinned: an idle
// state, or the committed one behind a running turn, yields its slot when the
// engine needs it.
//
// Bytes in RAM are bounded. When they run out, the idle session that was used
// least recently leaves for good and its id joins a bounded list of the
// departed, so that its loss is told and not silent. The states behind turns
// that have begun are never dropped: BeginTurn reserves room for them and
// refuses when it cannot (exact capacity).
//
// Thread-safe. Functions marked "engine thread" are for the one thread that
// owns the model's StatePool; copies between slot and RAM are its work, never
// done under the lock here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/clock.h"
#include "server/model_capacity.h"
#include "server/request.h"

namespace engram {

// A state as StatePool::Save wrote it: ModelCapacity::StateBytes of its tokens.
using StateBlock = std::vector<std::byte>;

// A session between two turns. The state itself is elsewhere.
struct CommittedTurns {
  int64_t version = 0;   // turns
  int64_t position = 0;  // tokens fed
  std::optional<int32_t> pending;          // sampled, not yet fed
  std::shared_ptr<const TokenSet> seen;    // nullptr: nothing yet

  // Fed when the next turn begins with its own.
  int64_t tokens() const { return position + (pending.has_value() ? 1 : 0); }
};

// The last turn's answer, kept for a repeat of its request.
struct TurnRecord {
  std::string request_id;
  RequestIdentity identity = {};
  StartedEvent started;
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;                     // empty unless asked for
  std::vector<std::vector<LogProbability>> top;    // likewise
  FinishReason finish_reason = FinishReason::kLength;
  int64_t version = 0;   // after the turn
  int64_t position = 0;  // after the turn
  Usage usage;
  Timing timing;

  size_t bytes() const;
};

// What Get and List tell.
struct SessionInfo {
  std::string session_id;
  std::string model;
  int64_t version = 0;
  int64_t position = 0;
  bool pending_token = false;
  std::string tier;  // "slot", "ram", "none"
  int64_t state_bytes = 0;
  absl::Time create_time;
  absl::Time last_used_time;
  absl::Time expire_time;
  std::map<std::string, std::string> labels;
};

struct NewSession {
  std::string session_id;
  int model = 0;
  std::optional<absl::Duration> time_to_live;
  std::map<std::string, std::string> labels;
};

struct SessionLimits {
  size_t memory_bytes = size_t{1} << 30;  // states and records in RAM
  absl::Duration time_to_live = absl::Hours(24);
  int sessions = 100000;
  int departed = 10000;
};

// Counts since the start, for metrics.
struct SessionCounts {
  struct PerModel {
    int64_t evictions_slot_to_ram = 0;
    int64_t evictions_for_good = 0;
    int64_t expirations = 0;
    int64_t restores = 0;
    int64_t forks = 0;
    // Now.
    int64_t sessions_in_slots = 0;
    int64_t sessions_in_ram = 0;
    int64_t sessions_empty = 0;
    size_t state_bytes_in_slots = 0;
    size_t state_bytes_in_ram = 0;
  };
  std::vector<PerModel> models;
  size_t ram_bytes = 0;
};

struct Session;  // opaque: its fields are the store's
using SessionHandle = std::shared_ptr<Session>;

class SessionStore {
 public:
  // `clock` must outlive the store.
  SessionStore(const SessionLimits& limits, Clock* clock);
  ~SessionStore();

  // Before any other call. Returns the model's number.
  int AddModel(const std::string& name, const ModelCapacity& capacity);

  // --- Turns.
  struct Turn {
    SessionHandle session;
    CommittedTurns start;
  };
  using TurnOrRecord = std::variant<Turn, std::shared_ptr<const TurnRecord>>;

  // The order of checks: another model's session (INVALID_ARGUMENT), a
  // request_id that has committed (its record, if it is the last turn's; else
  // ALREADY_EXISTS), a running turn (ABORTED), expected_version
  // (FAILED_PRECONDITION), an empty prompt with no pending token and a sequence
  // longer than can be (INVALID_ARGUMENT); then room (RESOURCE_EXHAUSTED), and
  // the session is the turn's until Commit or Abort. An unknown id makes a new
  // session, one of the departed NOT_FOUND.
  // `cancel_turn` is called, without locks held, if the session is deleted.
  // `may_queue` is what a turn that passes the checks is refused with, if it is
  // an error, before anything is changed for its sake.
  absl::StatusOr<TurnOrRecord> BeginTurn(
      int model, const Request& request,
      std::function<void(absl::Status)> cancel_turn,
      const absl::Status& may_queue = absl::OkStatus());

  // Engine thread. Ends the turn: `slot` holds the state after it and belongs
  // to the session from now on. False if the session was deleted meanwhile: the
  // slot then stays the caller's.
  bool Commit(const SessionHandle& session, CommittedTurns turns, int slot,
              TurnRecord record);
  // Ends the turn and leaves the session as it was; one that the turn made is
  // gone. Any thread.
  void Abort(const SessionHandle& session);

  // --- States. Engine thread.
  struct Location {
    CommittedTurns turns;
    int slot = -1;                            // or
    std::shared_ptr<const StateBlock> block;  // or neither: nothing was fed
  };
  // NOT_FOUND if it was deleted.
  absl::StatusOr<Location> Locate(const SessionHandle& session) const;
  struct Resident {
    SessionHandle session;
    int slot = -1;
  };
  // The state of `model` whose slot is to be given up first: idle before
  // running, least recently used first.
  std::optional<Resident> EvictionCandidate(int model) const;
  // `block` is a copy of the state in `slot`. True: the slot is the caller's
  // now. False: the session was deleted, and ReleasedSlots() tells the slot.
  bool MoveToRam(const SessionHandle& session, int slot,
                 std::shared_ptr<const StateBlock> block);
  // Slots whose sessions are gone; the caller's now.
  std::vector<int> ReleasedSlots(int model);

  // --- Sessions as users see them.
  absl::StatusOr<SessionInfo> Create(NewSession session);
  absl::StatusOr<SessionInfo> Get(const std::string& session_id) const;
  // In order of id, those after `after`; `model` -1: all.
  std::vector<SessionInfo> List(int model, const std::string& after,
                                int count) const;
  absl::Status Delete(const std::string& session_id);
  // A new session with the state `source` had when Locate()d.
  absl::StatusOr<SessionInfo> InstallFork(
      const SessionHandle& source, const std::string& new_session_id,
      const CommittedTurns& turns, std::shared_ptr<const StateBlock> block);
  // NOT_FOUND (which says so if it has departed).
  absl::StatusOr<SessionHandle> Find(const std::string& session_id) const;
  // The same, and INVALID_ARGUMENT if it belongs to another model.
  absl::StatusOr<SessionHandle> FindOfModel(const std::string& session_id,
                                            int model) const;
  // The session's model by number. NOT_FOUND likewise.
  absl::StatusOr<int> ModelOf(const std::string& session_id) const;

  // Forgets the sessions whose time has come.
  void Sweep();
  // A state was copied from RAM into a slot.
  void CountRestore(int model);
  SessionCounts Counts() const;

 private:
  using SessionList = std::list<Session*>;
  struct ModelSessions {
    std::string name;
    ModelCapacity capacity;
    SessionList idle_in_slots;     // least recently used first
    SessionList running_in_slots;
    std::vector<int> released;
    SessionCounts::PerModel counts;
  };

  struct Departure {
    std::string reason;
    int64_t serial = 0;
  };

  absl::StatusOr<SessionHandle> FindLocked(const std::string& session_id) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same, and it has not just been made by a turn that is still running.
  absl::StatusOr<SessionHandle> FindCommitted(const std::string& session_id)
      const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<SessionHandle> Insert(NewSession session)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::shared_ptr<const TurnRecord>> FindReplay(
      const Session& session, const Request& request) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckModel(const Session& session, int model) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckMayRun(const Session& session, const Request& request) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckLengthOf(const Session& session,
                             const Request& request) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Adds `sign` times the session to its model's counts of where states are.
  void Count(const Session& session, int sign)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of those without a running turn; nullptr if there is none.
  Session* LeastRecentlyUsed() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(const SessionHandle& session)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EvictForGood(Session* session, std::string reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Depart(Session* session, std::string reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The lists that a session is on follow from its fields: Unlist before they
  // change, Enlist after.
  void Unlist(Session* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Enlist(Session* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t StateBytes(const Session& session) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Drops idle sessions from RAM until `bytes` more fit, but not `keep`; then
  // the long answers that idle sessions in slots keep for repeats, the oldest
  // first.
  // False if that is not enough.
  bool MakeRoom(size_t bytes, const Session* keep)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Drops the answer of the last turn if it is long; its request_id stays known.
  void ForgetAnswer(Session* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remember(Session* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndTurn(Session* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  SessionInfo Describe(const Session& session) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const SessionLimits limits_;
  Clock* const clock_;

  mutable absl::Mutex mutex_;
  std::map<std::string, SessionHandle, std::less<>> sessions_
      ABSL_GUARDED_BY(mutex_);
  std::vector<ModelSessions> models_ ABSL_GUARDED_BY(mutex_);
  SessionList idle_in_ram_ ABSL_GUARDED_BY(mutex_);
  std::set<std::pair<absl::Time, Session*>> expiries_ ABSL_GUARDED_BY(mutex_);
  // Ids that went without their owner's word, and why.
  absl::flat_hash_map<std::string, Departure> departed_
      ABSL_GUARDED_BY(mutex_);
  std::deque<std::pair<std::string, int64_t>> departed_order_
      ABSL_GUARDED_BY(mutex_);
  int64_t departures_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t ram_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  // States behind turns that have begun, wherever they lie.
  size_t reserved_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Whether `id` is [A-Za-z0-9._:-]{1,128}; INVALID_ARGUMENT naming `field`.
absl::Status CheckId(absl::string_view field, absl::string_view id);
// 32 random hexadecimal digits.
std::string RandomId();

}  // namespace engram
