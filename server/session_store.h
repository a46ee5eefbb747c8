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
// Sessions are of tenants, who know nothing of each other: all that names one
// is a SessionName, and what a tenant is told is the same whatever others have.
//
// Bytes in RAM are bounded: states, and all that a client can make us keep
// beside them (labels, ids, answers for repeats). When they run out, of the
// tenant that takes the most for its weight the idle session that was used
// least recently leaves for good and its id joins a bounded list of the
// departed, so that its loss is told and not silent. The states behind turns
// that have begun are never dropped: BeginTurn reserves room for them and
// refuses when it cannot (exact capacity).
//
// A block of state never changes, so that forks share it; it is counted once.
//
// Where several devices run a model, each has a StatePool and an engine of its
// own, and slots are numbered through all of them (server/slot_number.h). A
// state in RAM is nobody's: any of them can go on with it.
//
// Thread-safe. Functions marked "engine thread" are for the one thread that
// owns the StatePool in question; copies between slot and RAM are its work,
// never done under the lock here. The lock is held for no longer than it takes
// to find and change some dozens of sessions: longer work (a page of a listing,
// many that leave) is done in parts, and memory is freed when the lock is free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/clock.h"
#include "server/model_capacity.h"
#include "server/request.h"
#include "server/session_name.h"
#include "server/state_block.h"
#include "server/turn_record.h"

namespace engram {

using SessionLabels = std::map<std::string, std::string>;

// A session between two turns. The state itself is elsewhere.
struct CommittedTurns {
  int64_t version = 0;                   // turns
  int64_t position = 0;                  // tokens fed
  std::optional<int32_t> pending;        // sampled, not yet fed
  std::shared_ptr<const TokenSet> seen;  // nullptr: nothing yet

  // Fed when the next turn begins with its own.
  int64_t tokens() const { return position + (pending.has_value() ? 1 : 0); }
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
  std::shared_ptr<const SessionLabels> labels;  // never nullptr
};

struct NewSession {
  SessionName name;
  int model = 0;
  std::optional<absl::Duration> time_to_live = std::nullopt;
  SessionLabels labels = {};
  std::string from_checkpoint = "";  // empty: it begins with nothing
};

struct NewCheckpoint {
  std::string id;
  SessionLabels labels = {};
};

struct SessionLimits {
  size_t memory_bytes = size_t{1} << 30;  // all that sessions take of RAM
  size_t answer_bytes = size_t{8} << 20;  // of the last answer, for a repeat
  int64_t remembered_turns = 65536;       // of a session
  absl::Duration time_to_live = absl::Hours(24);
  int sessions = 100000;
  int checkpoints = 1000;
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
    int64_t checkpoints = 0;
    size_t state_bytes_in_slots = 0;
    // Copies of states in slots included, and checkpoints; a block that several
    // share once.
    size_t state_bytes_in_ram = 0;
    // What is reserved for checkpoints, which may share their states.
    size_t checkpoint_state_bytes = 0;
    // What they take of RAM beside states, wherever those are.
    size_t own_bytes = 0;
  };
  std::vector<PerModel> models;
  size_t ram_bytes = 0;       // what limits_.memory_bytes bounds
  size_t departed_bytes = 0;  // beside it, bounded by their number
  size_t parked_bytes = 0;    // of ram_bytes, for HoldForParked
};

// What the sessions of one tenant take.
struct TenantUse {
  TenantHandle tenant;  // nullptr: the one without a name
  int64_t sessions = 0;
  // States wherever they lie, those that forks share once, and what is kept
  // beside them: what its limit session_bytes bounds.
  size_t bytes = 0;
};

struct Session;  // opaque: its fields are the store's (server/session.h)
using SessionHandle = std::shared_ptr<Session>;
class SessionCheckpoints;
class SessionRoom;
class SessionTable;
// Least recently used first.
using SessionsByUse = absl::btree_map<int64_t, Session*>;

class SessionStore {
 public:
  // `clock` must outlive the store.
  SessionStore(const SessionLimits& limits, Clock* clock);
  ~SessionStore();

  const SessionLimits& limits() const { return limits_; }

  // Before any other call. Returns the model's number.
  int AddModel(const std::string& name, const ModelCapacity& capacity,
               int devices = 1);

  // --- Turns.
  struct Turn {
    SessionHandle session;
    CommittedTurns start;
  };
  using TurnOrRecord = std::variant<Turn, std::shared_ptr<const TurnRecord>>;

  // The order of checks: another model's session (INVALID_ARGUMENT), a
  // request_id that has committed (its record, if it is the last turn's; else
  // ALREADY_EXISTS) or that may have (FAILED_PRECONDITION: ids were forgotten,
  // and neither expected_version nor the id, one of MakeRequestId's, tells that
  // it is new), a running turn (ABORTED), expected_version
  // (FAILED_PRECONDITION), an empty prompt with no pending token and a sequence
  // longer than can be (INVALID_ARGUMENT); then the tenant's limits and room
  // (RESOURCE_EXHAUSTED), and the session is the turn's until Commit or Abort.
  // An unknown id makes a new session, one of the departed NOT_FOUND. With
  // from_checkpoint it must be new (FAILED_PRECONDITION, told after
  // expected_version), and errors of UseCheckpoint are told first.
  // `cancel_turn` is called, without locks held, if the session is deleted.
  absl::StatusOr<TurnOrRecord> BeginTurn(
      int model, const Request& request,
      std::function<void(absl::Status)> cancel_turn);
  // The same checks but for room, and nothing is changed: the record of a
  // request that has committed, nullptr for a turn that could run.
  absl::StatusOr<std::shared_ptr<const TurnRecord>> CheckTurn(
      int model, const Request& request) const;

  // Engine thread. Ends the turn: `slot`, or `block` if that is -1, holds the
  // state after it and belongs to the session from now on. False if the session
  // was deleted meanwhile: the slot then stays the caller's.
  bool Commit(const SessionHandle& session, CommittedTurns turns, int slot,
              TurnRecord record,
              std::shared_ptr<const StateBlock> block = nullptr);
  // A request_id for a turn of this session as it is now.
  std::string MakeRequestId(const SessionName& name) const;
  // Ends the turn and leaves the session as it was; one that the turn made is
  // gone. Any thread.
  void Abort(const SessionHandle& session);

  // --- States. Engine thread.
  struct Location {
    CommittedTurns turns;
    int slot = -1;  // or
    // The state, or a copy of what is in the slot; neither: nothing was fed.
    std::shared_ptr<const StateBlock> block;
  };
  // NOT_FOUND if it was deleted.
  absl::StatusOr<Location> Locate(const SessionHandle& session) const;
  struct Resident {
    SessionHandle session;
    int slot = -1;
    std::shared_ptr<const StateBlock> copy;  // nullptr: there is none yet
  };
  // The state of `model` on a device whose slot is to be given up first: idle
  // before running, least recently used first. None of the slots `but`: those
  // are being given up already.
  std::optional<Resident> EvictionCandidate(
      int model, int device = 0, absl::Span<const int> but = {}) const;
  // `block` is a copy of the state in `slot`. True: the slot is the caller's
  // now. False: the session was deleted, and ReleasedSlots() tells the slot.
  bool MoveToRam(const SessionHandle& session, int slot,
                 std::shared_ptr<const StateBlock> block);
  // Keeps a copy of the state in `slot`, after `version` turns, for forks to
  // share and for when the slot is given up; unless the session has gone on, or
  // RAM is short: nothing leaves for a copy.
  void KeepCopy(const SessionHandle& session, int slot, int64_t version,
                std::shared_ptr<const StateBlock> block);
  // Sets RAM apart for the state of a running sequence that gives up its slot.
  // False if there is none left for such states, which may take a quarter of
  // all: idle sessions leave for them like for others, so they must not be
  // many.
  bool HoldForParked(size_t bytes);
  void ReleaseParked(size_t bytes);
  // Slots of a device whose sessions are gone; the caller's now.
  std::vector<int> ReleasedSlots(int model, int device = 0);

  // --- Sessions as users see them.
  // ALREADY_EXISTS; RESOURCE_EXHAUSTED; of from_checkpoint: as UseCheckpoint.
  absl::StatusOr<SessionInfo> Create(NewSession session);
  absl::StatusOr<SessionInfo> Get(const SessionName& name) const;
  // Those of the tenant in order of id, behind `after`; `model` -1: all.
  std::vector<SessionInfo> List(const TenantHandle& tenant, int model,
                                const std::string& after, int count) const;
  absl::Status Delete(const SessionName& name);
  // A new session of the same tenant with the state `source` had when
  // Locate()d; of a session's fork also with its labels and time to live.
  absl::StatusOr<SessionInfo> InstallFork(
      const SessionHandle& source, const std::string& new_session_id,
      const CommittedTurns& turns, std::shared_ptr<const StateBlock> block);
  // --- States from elsewhere, as sessions and checkpoints. What has the name
  // when an import begins is what it may replace when it ends.
  struct Replaced {
    SessionHandle session;  // or checkpoint; nullptr: there is none
    int64_t version = 0;
  };
  // ALREADY_EXISTS, unless it may be replaced; ABORTED: it has a running turn.
  absl::StatusOr<Replaced> BeginImport(const SessionName& name,
                                       bool may_replace) const;
  absl::StatusOr<Replaced> BeginCheckpointImport(const SessionName& name,
                                                 bool may_replace) const;
  // Nothing has changed after an error. INVALID_ARGUMENT: what is replaced is
  // another model's; ABORTED: it has changed or runs a turn; ALREADY_EXISTS: it
  // was made meanwhile; RESOURCE_EXHAUSTED.
  absl::StatusOr<SessionInfo> Import(NewSession session,
                                     const Replaced& replaced,
                                     const CommittedTurns& turns,
                                     std::shared_ptr<const StateBlock> block);
  // The same; the one that is replaced takes its room until then.
  absl::StatusOr<SessionInfo> ImportCheckpoint(
      const TenantHandle& tenant, int model, NewCheckpoint checkpoint,
      const Replaced& replaced, const CommittedTurns& turns,
      std::shared_ptr<const StateBlock> block);

  // NOT_FOUND (which says so if it has departed).
  absl::StatusOr<SessionHandle> Find(const SessionName& name) const;
  // The same, and INVALID_ARGUMENT if it belongs to another model.
  absl::StatusOr<SessionHandle> FindOfModel(const SessionName& name,
                                            int model) const;
  // The device that has the session's state in a slot; nothing if none has, or
  // if there is no such session. Any thread: it may be another one soon.
  std::optional<int> DeviceOf(const SessionName& name) const;
  // The session's model by number. NOT_FOUND likewise.
  absl::StatusOr<int> ModelOf(const SessionName& name) const;

  // --- Checkpoints: server/session_checkpoints.h.

  // A checkpoint of the same tenant with the state `source` had when Locate()d.
  // FAILED_PRECONDITION: it had none; ALREADY_EXISTS; RESOURCE_EXHAUSTED.
  absl::StatusOr<SessionInfo> InstallCheckpoint(
      const SessionHandle& source, NewCheckpoint checkpoint,
      const CommittedTurns& turns, std::shared_ptr<const StateBlock> block);
  // As List. `session_id` is the checkpoint's id, and it never expires.
  std::vector<SessionInfo> ListCheckpoints(const TenantHandle& tenant,
                                           int model, const std::string& after,
                                           int count) const;
  // NOT_FOUND. What has started from it stays.
  absl::Status DeleteCheckpoint(const SessionName& name);
  // One to start from, which is used now: what can be done with it is what can
  // be done with a session that runs no turn. NOT_FOUND; INVALID_ARGUMENT if it
  // belongs to another model.
  absl::StatusOr<SessionHandle> UseCheckpoint(const SessionName& name,
                                              int model);
  // The checkpoint's model by number. NOT_FOUND.
  absl::StatusOr<int> ModelOfCheckpoint(const SessionName& name) const;

  // Forgets the sessions whose time has come, or some dozens of them: false if
  // there are more.
  bool Sweep();
  // A state was copied from RAM into a slot.
  void CountRestore(int model);
  SessionCounts Counts() const;
  // Of all tenants that have, or have had, sessions, by number.
  std::vector<TenantUse> UsesOfTenants() const;

 private:
  // Holds the lock; what was let go of meanwhile is freed after it.
  class Lock;

  // The request's session or, if there is none, one that Insert may take.
  absl::StatusOr<SessionHandle> FindOrMake(const Request& request,
                                           int model) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // As CheckTurn, of what FindOrMake found.
  absl::StatusOr<std::shared_ptr<const TurnRecord>> CheckTurnOn(
      const Session& session, int model, const Request& request,
      uint64_t digest) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckModel(const Session& session, int model) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether what has the name now, if it is not null, may be replaced.
  absl::StatusOr<Replaced> CheckReplaced(const SessionHandle& found,
                                         bool may_replace) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether `found` is still what was to be replaced by `session`.
  absl::Status CheckUnchanged(const SessionHandle& found,
                              const Replaced& replaced,
                              const Session& session) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A new session begins with the checkpoint of that id, if one is named.
  absl::Status StartFromCheckpoint(const std::string& id,
                                   Session* session) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Another one leaves if there are too many.
  absl::Status Insert(const SessionHandle& session)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same of one that has a state, in place of `old` unless that is null;
  // nothing of `keep`'s leaves. False: to be tried again, with the lock let go
  // of between. RESOURCE_EXHAUSTED: there is no room for `what`.
  absl::StatusOr<bool> TryInsertWithState(const SessionHandle& session,
                                          const SessionHandle& old,
                                          const Session* keep, const char* what)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same of a checkpoint, for which checkpoints_ has that room.
  absl::StatusOr<bool> TryAddCheckpoint(const SessionHandle& checkpoint,
                                        const SessionHandle& old,
                                        const Session* keep)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the session's tenant may have it, if it is new, and grow by so many
  // bytes.
  absl::Status CheckTenant(const Session& session, bool is_new,
                           size_t growth) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndTurn(Session* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Back within the bytes, with the lock held for some dozens of sessions at a
  // time; nothing of `keep`'s leaves.
  void Trim(const Session* keep);

  const SessionLimits limits_;
  Clock* const clock_;

  mutable absl::Mutex mutex_;
  const std::unique_ptr<SessionTable> table_ ABSL_PT_GUARDED_BY(mutex_);
  const std::unique_ptr<SessionRoom> room_ ABSL_PT_GUARDED_BY(mutex_);
  const std::unique_ptr<SessionCheckpoints> checkpoints_
      ABSL_PT_GUARDED_BY(mutex_);
};

}  // namespace engram
