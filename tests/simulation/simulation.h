// Simulation: one run of a whole engine under random clients, on a FakeClock
// and a ScriptedModel; everything follows from the seed.
//
// Clients of two tenants, one with quotas, who use the same ids, generate with
// and without sessions, score, repeat, resume, fork, create and delete, make
// checkpoints, start from them and delete them; they
// cancel, have deadlines, read slowly or not at all, and some of them only when
// they are told that there is something; states break and, in some runs, there
// are two devices, or the only one fails, or copies of states are done some
// iterations late. At the end the server drains. Beside
// it the simulation keeps a record of its own of what every session must hold,
// and computes every answer from tokens alone. What must hold is said at each
// check.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/session_name.h"
#include "tests/server/test_engine.h"
#include "tests/support/held_copies_backend.h"

namespace engram {

// What a session may take in RAM beside its state: its own fields, and the
// record of one answer.
inline constexpr size_t kSessionFields = 2048;
// Of a scripted model's keys: 32 tokens of a key and a value.
inline constexpr int64_t kBlockTokens = 32;
inline constexpr size_t kBlockBytes = kBlockTokens * 2 * sizeof(float);

inline std::string CodeName(const absl::Status& status) {
  return absl::StatusCodeToString(status.code());
}

inline Tokens Prefix(const Tokens& tokens, size_t count) {
  return Tokens(tokens.begin(),
                tokens.begin() + std::min(count, tokens.size()));
}

// What happened, to show that a run was not idle.
struct SimulationCounts {
  std::map<std::string, int64_t> ends;                 // by code
  std::map<std::string, int64_t> refusals;             // by code
  std::map<std::string, int64_t> fork_refusals;        // by code
  std::map<std::string, int64_t> checkpoint_refusals;  // by code
  int64_t replays = 0;
  int64_t resumed = 0;
  int64_t forks = 0;
  int64_t checkpoints = 0;
  int64_t from_checkpoints = 0;  // sessions and requests that started from one
  int64_t departed = 0;
  int64_t parked = 0;       // steps with such
  int64_t with_spares = 0;  // steps with slots for going back by one
  int64_t overdue = 0;      // refused or ended for the queue's time
  int64_t told = 0;         // readers that waited for it
  int64_t moves = 0;        // turns that left a state on another device
  int64_t held = 0;         // steps with slots that copies held
  int64_t over_quota = 0;   // refused for what their tenant may
  int64_t steps = 0;

  void Add(const SimulationCounts& other);
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed);

  // Adds a test failure for whatever does not hold.
  SimulationCounts Run();

 private:
  // What a session must hold. Appended to by commits only.
  struct Session {
    Tokens tokens;                        // the pending one included
    std::vector<size_t> tokens_at = {0};  // their number by version
    bool pending = false;
    std::vector<std::string> committed;  // request ids, the last is on record
    Tokens last_answer;
    bool running = false;
    bool made_by_turn = false;  // which runs
    int device = -1;            // where the last turn left the state

    int64_t version() const { return tokens_at.size() - 1; }
    int64_t position() const { return tokens.size() - (pending ? 1 : 0); }
  };
  using SessionPointer = std::shared_ptr<Session>;

  // One admitted request.
  struct Call {
    Request request;
    SessionPointer session;     // nullptr without
    SessionPointer checkpoint;  // what it starts from; nullptr without
    int64_t version = 0;        // of what it goes on from when it was admitted
    ExpectedAnswer expected;    // of a turn
    Reader reader;
    int read_percent = 100;  // how often it reads
    bool cancelled = false;
    bool deleted = false;  // its session
    absl::Time arrival;
    int ends = 0;
    absl::Status status;

    bool is_turn() const {
      return session != nullptr && request.kind == RequestKind::kGenerate;
    }
  };
  using CallPointer = std::shared_ptr<Call>;

  static TestEngineOptions RandomOptions(Backend* backend,
                                         std::mt19937_64* random);
  int64_t Uniform(int64_t least, int64_t most);
  bool Chance(int percent) { return Uniform(1, 100) <= percent; }
  // The names that clients use: a tenant's number and an id, as "1:s2".
  std::string RandomSession();
  std::string RandomSessionOf(const SessionName& other);
  SessionName NameOf(const std::string& name) const;
  static std::string NameIn(const Request& request);
  void SetSession(const std::string& name, Request* request) const;
  Tokens RandomTokens(int64_t least, int64_t most);

  // --- What clients do.
  void Act();
  void Generate();
  void Repeat();
  void Score();
  void Create();
  void Delete();
  void MakeCheckpoint();
  void DeleteCheckpoint();
  void Fork();
  void CopyForFork(const std::string& source, const SessionHandle& handle,
                   const std::string& target);
  void InstallFork(const std::string& source, const SessionHandle& handle,
                   const std::string& target,
                   const StateSnapshots::Snapshot& snapshot);
  void Cancel();
  void Read();
  // Tells so many readers that there is something to read.
  void Deliver(int most = 1 << 30);

  void Submit(Request request);
  // How many devices have a full queue.
  int FullQueues();
  // The code that a turn must be refused with; OK if it must not.
  absl::StatusCode ExpectedRefusal(const Request& request);
  // `expected` is what ExpectedRefusal said; `may_be_full`: a queue was.
  void CheckRefusal(const Call& call, absl::StatusCode expected,
                    bool may_be_full, const absl::Status& status);
  absl::StatusCode ExpectedRefusalOfTurn(const Request& request,
                                         const Session* session);
  absl::StatusCode ExpectedForkRefusal(const std::string& source,
                                       const std::string& target) const;
  void CheckForkRefusal(const std::string& source, absl::StatusCode expected,
                        const absl::Status& status);
  void CheckCheckpointRefusal(const std::string& source,
                              const std::string& name,
                              const absl::Status& status);
  // Whether a turn on `session` (nullptr: a fresh sequence) could come to more
  // tokens than there can be keys for.
  bool CouldOutgrow(const Session* session, const Request& request) const;
  size_t BytesKeptFrom(const TenantHandle& tenant) const;
  size_t StateBytes(int64_t tokens) const;
  void CheckReplay(const Request& request,
                   std::shared_ptr<const TurnRecord> record);
  SessionPointer Known(const std::string& id) const;
  // What the request starts from; nullptr if there is no such checkpoint.
  SessionPointer CheckpointOf(const Request& request) const;
  // The store no longer has the session: it must have been idle.
  void Depart(const std::string& id);

  // --- What the engines do.
  // One iteration of the first, and of others before it, after it, or not now.
  void RunEngines();
  // The sum of what each of them says.
  int64_t OfAll(int (Engine::*say)() const) {
    int64_t sum = 0;
    for (int i = 0; i < engine_.options.devices; ++i) {
      sum += (engine_.engine_of(i).*say)();
    }
    return sum;
  }
  int64_t running() { return OfAll(&Engine::running); }
  int64_t spare_slots() { return OfAll(&Engine::spare_slots); }
  int64_t parked() { return OfAll(&Engine::parked); }
  int64_t held_slots() { return OfAll(&Engine::held_slots); }
  void OnEnd(const RequestSummary& summary);
  void CheckEnd(const Call& call, const RequestSummary& summary);
  void Commit(const Call& call, const RequestSummary& summary);
  void CheckLimits();
  void CheckSlots();
  void CheckSessions();
  // The checkpoints too.
  void CheckState(ScriptedModel* probe, int slot, const SessionHandle& handle,
                  const Session& session);
  // Each is told of its own sessions, and of all of them.
  void CheckLists();
  size_t ListedSessions() const;
  // Those in their first turn too.
  int64_t HeldSessions() const;
  void CheckAnswer(const Call& call);
  void Drain();

  std::mt19937_64 random_;
  const std::unique_ptr<Backend> cpu_;
  HeldCopiesBackend backend_;
  TestEngine engine_;
  const std::vector<TenantHandle> tenants_ = {
      nullptr, std::make_shared<Tenant>("second", 1)};
  SimulationCounts counts_;
  // By name.
  std::map<std::string, SessionPointer> sessions_;
  std::map<std::string, SessionPointer> checkpoints_;  // each a copy
  std::set<std::string> departed_;
  std::map<std::string, CallPointer> running_;  // by request id
  std::vector<CallPointer> ended_;
  int64_t next_request_ = 0;
  bool device_fails_ = false;
  bool draining_ = false;
};

}  // namespace engram
