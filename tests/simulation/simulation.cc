#include "tests/simulation/simulation.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/replay.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

constexpr int kIterations = 1000;
constexpr int kSessions = 8;  // ids that clients use
constexpr int64_t kVocabulary = 16;
// What a session may take in RAM beside its state: its own fields, and the
// record of one answer.
constexpr size_t kSessionFields = 2048;
// Its own fields alone, as the store counts them.
constexpr size_t kOwnBytes = 1024;
// Of a scripted model's keys: 32 tokens of a key and a value.
constexpr int64_t kBlockTokens = 32;
constexpr size_t kBlockBytes = kBlockTokens * 2 * sizeof(float);

std::string CodeName(const absl::Status& status) {
  return absl::StatusCodeToString(status.code());
}

Tokens Prefix(const Tokens& tokens, size_t count) {
  return Tokens(tokens.begin(),
                tokens.begin() + std::min(count, tokens.size()));
}

}  // namespace

void SimulationCounts::Add(const SimulationCounts& other) {
  for (const auto& [code, count] : other.ends) ends[code] += count;
  for (const auto& [code, count] : other.refusals) refusals[code] += count;
  for (const auto& [code, count] : other.fork_refusals) {
    fork_refusals[code] += count;
  }
  replays += other.replays;
  resumed += other.resumed;
  forks += other.forks;
  departed += other.departed;
  parked += other.parked;
  overdue += other.overdue;
  steps += other.steps;
}

// --- Set-up.

TestEngineOptions Simulation::RandomOptions(std::mt19937_64* random) {
  const auto uniform = [random](int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(*random);
  };
  TestEngineOptions options;
  options.vocabulary_size = kVocabulary;
  options.eos_token_ids = {0};
  options.model.slots = uniform(1, 5);
  options.model.max_batch_tokens = uniform(1, 12);
  options.model.max_logits_rows =
      uniform(2, options.model.max_batch_tokens + 1);
  options.has_attention = uniform(0, 1) == 1;
  options.model.kv_bytes = uniform(2, 16) * kBlockBytes;
  options.admission.max_queue = uniform(2, 8);
  options.admission.max_prompt_tokens = 20;
  options.admission.max_generated_tokens = 12;
  options.admission.stream_tokens = uniform(1, 8);
  options.sessions.memory_bytes =
      (uniform(0, 3) == 0 ? uniform(100, 300) : uniform(0, 60)) *
      kSessionFields;
  options.sessions.sessions = uniform(4, 12);
  if (uniform(0, 1) == 1) options.sessions.remembered_turns = uniform(2, 20);
  options.sessions.time_to_live = absl::Seconds(uniform(20, 2000));
  options.engine.slow_reader_timeout = absl::Seconds(uniform(2, 30));
  options.engine.steps_in_a_slot = uniform(1, 8);
  options.engine.long_prompt_tokens = uniform(4, 10);
  if (uniform(0, 1) == 1) {
    options.admission.max_queue_time = absl::Milliseconds(uniform(0, 10000));
  }
  return options;
}

Simulation::Simulation(uint64_t seed)
    : random_(seed), engine_(RandomOptions(&random_)) {
  engine_.on_end = [this](const RequestSummary& summary) { OnEnd(summary); };
  if (Chance(50)) engine_.script.BreakStateOneIn(Uniform(50, 2000));
  device_fails_ = Chance(10);
  if (device_fails_) engine_.model.FailStep(Uniform(1, kIterations));
}

int64_t Simulation::Uniform(int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(random_);
}

std::string Simulation::RandomSession() {
  return absl::StrCat("s", Uniform(1, kSessions));
}

Tokens Simulation::RandomTokens(int64_t least, int64_t most) {
  Tokens tokens(Uniform(least, most));
  for (int32_t& id : tokens)
    id = static_cast<int32_t>(Uniform(0, kVocabulary - 1));
  return tokens;
}

SimulationCounts Simulation::Run() {
  for (int i = 0; i < kIterations && !engine_.admission.inbox().closed(); ++i) {
    for (int64_t actions = Uniform(0, 3); actions > 0; --actions) Act();
    engine_.engine.RunOnce();
    counts_.parked += engine_.engine.parked() > 0;
    posted_ = 0;
    Read();
    CheckLimits();
    if (Chance(5)) CheckSlots();
    Read();
    if (Chance(5)) CheckSessions();
    engine_.clock.Advance(absl::Milliseconds(Uniform(0, 500)));
    if (Chance(1)) engine_.clock.Advance(absl::Seconds(Uniform(1, 60)));
    if (::testing::Test::HasFailure()) break;  // what follows tells less
  }
  Drain();
  counts_.steps = engine_.model.steps();
  return counts_;
}

// --- What clients do.

void Simulation::Act() {
  switch (Uniform(0, 19)) {
    case 0:
      return Create();
    case 1:
      return Delete();
    case 2:
      return Fork();
    case 3:
      return Cancel();
    case 4:
    case 5:
      return Score();
    case 6:
    case 7:
    case 8:
      return Repeat();
    default:
      return Generate();
  }
}

void Simulation::Generate() {
  const std::string id = Chance(70) ? RandomSession() : "";
  Request request = TestEngine::Turn(id, absl::StrCat("r", ++next_request_),
                                     RandomTokens(1, 20), Uniform(0, 12));
  const SessionPointer session = Known(id);
  if (session != nullptr) {
    if (session->pending && Chance(20)) request.prompt.clear();
    if (Chance(30)) request.expected_version = session->version();
    if (Chance(5)) request.expected_version = Uniform(0, 9);
  }
  if (Chance(2)) request.prompt = Tokens(21, 1);  // over the limit
  if (Chance(50)) request.sampling.temperature = 1;
  if (Chance(20)) request.sampling.repetition_penalty = 1.5;
  if (Chance(20)) request.sampling.frequency_penalty = 1;
  request.sampling.seed = next_request_;
  request.stopping.ignore_eos = Chance(50);
  if (Chance(30)) request.stopping.stop_token_ids = RandomTokens(1, 2);
  request.logprobs = static_cast<int>(Uniform(0, 2));
  request.keep_partial = Chance(30);
  request.priority = static_cast<int>(Uniform(-2, 2));
  if (Chance(20)) {
    request.deadline =
        engine_.clock.Now() + absl::Milliseconds(Uniform(1, 10000));
  }
  Submit(std::move(request));
}

// The same call again, as of a client whose stream broke.
void Simulation::Repeat() {
  if (ended_.empty()) return;
  const CallPointer call = ended_[Uniform(0, ended_.size() - 1)];
  if (call->request.kind != RequestKind::kGenerate) return;
  Request request = call->request;
  if (running_.contains(request.request_id)) return;
  request.deadline = absl::InfiniteFuture();
  if (Chance(70)) {
    // It may have read less than was sent.
    const Tokens ids = call->reader.ids();
    const Tokens more = Prefix(ids, Uniform(0, ids.size()));
    request.received.insert(request.received.end(), more.begin(), more.end());
    if (!more.empty()) ++counts_.resumed;
  }
  // The tokens are those of the version that it ran on.
  const SessionPointer session = Known(request.session_id);
  if (session != call->session ||
      (session != nullptr && session->version() != call->version &&
       std::find(session->committed.begin(), session->committed.end(),
                 request.request_id) == session->committed.end())) {
    request.received.clear();
  }
  Submit(std::move(request));
}

void Simulation::Score() {
  Request request =
      TestEngine::Score(Chance(70) ? RandomSession() : "", RandomTokens(1, 20));
  request.request_id = absl::StrCat("r", ++next_request_);
  Submit(std::move(request));
}

void Simulation::Create() {
  const std::string id = RandomSession();
  const absl::Status status =
      engine_.sessions.Create(EmptySession(id)).status();
  const bool taken = status.code() == absl::StatusCode::kAlreadyExists;
  if (taken) {
    EXPECT_TRUE(Known(id) != nullptr) << id;
    return;
  }
  if (status.code() == absl::StatusCode::kResourceExhausted) return;
  EXPECT_TRUE(status.ok()) << status;
  if (Known(id) != nullptr) Depart(id);
  departed_.erase(id);
  sessions_[id] = std::make_shared<Session>();
}

void Simulation::Delete() {
  const std::string id = RandomSession();
  const SessionPointer session = Known(id);
  const absl::Status status = engine_.sessions.Delete(id);
  EXPECT_TRUE(status.ok() || session == nullptr || session->version() == 0)
      << status;
  for (const auto& [name, call] : running_) {
    if (call->session == session && call->is_turn()) call->deleted = true;
  }
  sessions_.erase(id);
  departed_.erase(id);
}

void Simulation::Fork() {
  const std::string source = RandomSession();
  const std::string target = RandomSession();
  const absl::Status posted = engine_.admission.inbox().Post([this, source,
                                                              target] {
    const absl::StatusOr<SessionHandle> handle = engine_.sessions.Find(source);
    if (!handle.ok()) {
      return CheckForkRefusal(source, ExpectedForkRefusal(source, target),
                              handle.status());
    }
    engine_.engine.TakeSnapshot(
        *handle, [this, source, target, handle = *handle](
                     absl::StatusOr<StateSnapshots::Snapshot> snapshot) {
          if (snapshot.ok()) {
            return InstallFork(source, handle, target, *snapshot);
          }
          // It left to make room for another fork.
          EXPECT_EQ(snapshot.status().code(), absl::StatusCode::kNotFound);
          EXPECT_NE(engine_.sessions.Find(source).value_or(nullptr), handle);
          ++counts_.fork_refusals[CodeName(snapshot.status())];
        });
  });
  // Only a full queue of tasks and a server that has closed say no.
  const bool room = posted_ < engine_.options.admission.max_queue;
  EXPECT_EQ(posted.ok(), room) << posted;
  if (posted.ok()) {
    ++posted_;
  } else {
    EXPECT_EQ(posted.code(), absl::StatusCode::kUnavailable);
  }
}

void Simulation::InstallFork(const std::string& source,
                             const SessionHandle& handle,
                             const std::string& target,
                             const StateSnapshots::Snapshot& snapshot) {
  const SessionPointer session = Known(source);
  const absl::StatusCode expected = ExpectedForkRefusal(source, target);
  const absl::Status status =
      engine_.sessions
          .InstallFork(handle, target, snapshot.turns, snapshot.block)
          .status();
  if (!status.ok()) return CheckForkRefusal(source, expected, status);
  EXPECT_EQ(expected, absl::StatusCode::kOk);
  ++counts_.forks;
  ASSERT_TRUE(session != nullptr);
  EXPECT_EQ(snapshot.turns.version, session->version());
  if (Known(target) != nullptr) Depart(target);
  departed_.erase(target);
  auto fork = std::make_shared<Session>(*session);
  fork->running = false;
  fork->committed.clear();
  sessions_[target] = std::move(fork);
}

// The code that a fork must be refused with, unless there is no room.
absl::StatusCode Simulation::ExpectedForkRefusal(
    const std::string& source, const std::string& target) const {
  const SessionPointer session = Known(source);
  // Whether a session has left since it was last heard of, only the store can
  // know.
  if (session == nullptr || !engine_.sessions.Find(source).ok()) {
    return absl::StatusCode::kNotFound;
  }
  const SessionPointer other = Known(target);
  const bool exists = other != nullptr &&
                      (other->running || engine_.sessions.Find(target).ok());
  return exists ? absl::StatusCode::kAlreadyExists : absl::StatusCode::kOk;
}

void Simulation::CheckForkRefusal(const std::string& source,
                                  absl::StatusCode expected,
                                  const absl::Status& status) {
  ++counts_.fork_refusals[CodeName(status)];
  if (expected != absl::StatusCode::kOk) {
    EXPECT_EQ(status.code(), expected) << status;
    return;
  }
  // Everything that may leave has left by now.
  ASSERT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  const SessionLimits& limits = engine_.options.sessions;
  const size_t bytes = engine_.sessions.Counts().ram_bytes +
                       StateBytes(Known(source)->position()) + kSessionFields;
  const size_t sessions = engine_.sessions.List(-1, "", 1000).size();
  EXPECT_TRUE(bytes > limits.memory_bytes ||
              sessions + running_.size() >=
                  static_cast<size_t>(limits.sessions))
      << status;
}

void Simulation::Cancel() {
  if (running_.empty()) return;
  auto call = std::next(running_.begin(), Uniform(0, running_.size() - 1));
  call->second->cancelled = true;
  call->second->reader.Cancel();
}

void Simulation::Read() {
  for (const auto& [id, call] : running_) {
    if (call->read_percent == 100) {
      call->reader.Read();
    } else if (Chance(call->read_percent)) {
      call->reader.Read(static_cast<int>(Uniform(1, 20)));
    }
  }
}

// --- Submitting.

Simulation::SessionPointer Simulation::Known(const std::string& id) const {
  const auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : found->second;
}

void Simulation::Depart(const std::string& id) {
  const SessionPointer session = Known(id);
  ASSERT_TRUE(session != nullptr);
  EXPECT_FALSE(session->running) << id << " left while a turn ran";
  if (session->position() > 0) departed_.insert(id);
  sessions_.erase(id);
  ++counts_.departed;
}

absl::StatusCode Simulation::ExpectedRefusal(const Request& request) {
  using Code = absl::StatusCode;
  const auto& limits = engine_.options.admission;
  if (static_cast<int64_t>(request.prompt.size()) > limits.max_prompt_tokens) {
    return Code::kInvalidArgument;
  }
  const bool full = engine_.admission.inbox().waiting() >= limits.max_queue;
  if (request.session_id.empty()) {
    if (CouldOutgrow(nullptr, request)) return Code::kInvalidArgument;
    return full ? Code::kUnavailable : Code::kOk;
  }

  // A session may have left for good since; its id then is of the departed.
  SessionPointer session = Known(request.session_id);
  if (session != nullptr && !session->running &&
      !engine_.sessions.Find(request.session_id).ok()) {
    Depart(request.session_id);
    session = nullptr;
  }
  if (departed_.contains(request.session_id)) return Code::kNotFound;
  if (request.kind == RequestKind::kScore) {
    if (session == nullptr) return Code::kNotFound;
    if (session->version() == 0 &&
        !engine_.sessions.Find(request.session_id).ok()) {
      return Code::kNotFound;  // its first turn runs
    }
    return full ? Code::kUnavailable : Code::kOk;
  }
  const int64_t version = session == nullptr ? 0 : session->version();
  if (session != nullptr) {
    const auto& ids = session->committed;
    const auto found = std::find(ids.begin(), ids.end(), request.request_id);
    const int64_t remembered = engine_.options.sessions.remembered_turns;
    if (found != ids.end() && ids.end() - found <= remembered) {
      return found + 1 == ids.end() ? Code::kOk : Code::kAlreadyExists;
    }
    // It may be one of those that were forgotten.
    if (static_cast<int64_t>(ids.size()) > remembered &&
        !request.expected_version.has_value()) {
      return Code::kFailedPrecondition;
    }
    if (session->running) return Code::kAborted;
  }
  if (request.expected_version.value_or(version) != version) {
    return Code::kFailedPrecondition;
  }
  if (request.prompt.empty() && (session == nullptr || !session->pending)) {
    return Code::kInvalidArgument;
  }
  if (CouldOutgrow(session.get(), request)) return Code::kInvalidArgument;
  if (full) return Code::kUnavailable;
  if (session != nullptr && session->position() > 0) {
    size_t reserved = StateBytes(session->position()) +
                      engine_.sessions.Counts().parked_bytes;
    for (const auto& [id, other] : sessions_) {
      if (other->running) reserved += StateBytes(other->position());
    }
    if (reserved > engine_.options.sessions.memory_bytes) {
      return Code::kResourceExhausted;
    }
  }
  return Code::kOk;
}

size_t Simulation::StateBytes(int64_t tokens) const {
  if (tokens == 0) return 0;
  const size_t keys =
      engine_.options.has_attention
          ? (tokens + kBlockTokens - 1) / kBlockTokens * kBlockBytes
          : 0;
  return engine_.model.info().state_bytes + keys;
}

bool Simulation::CouldOutgrow(const Session* session,
                              const Request& request) const {
  if (!engine_.options.has_attention) return false;
  const int64_t answer =
      request.kind == RequestKind::kScore
          ? 0
          : std::max<int64_t>(0, request.stopping.max_tokens - 1);
  const int64_t tokens = (session == nullptr ? 0 : session->tokens.size()) +
                         request.prompt.size() + answer;
  const int64_t blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
  if (blocks * kBlockBytes > engine_.options.model.kv_bytes) return true;
  return !request.session_id.empty() &&
         StateBytes(tokens) + kOwnBytes > engine_.options.sessions.memory_bytes;
}

void Simulation::Submit(Request request) {
  const absl::StatusCode expected = ExpectedRefusal(request);
  auto call = std::make_shared<Call>();
  call->request = request;
  call->session = Known(request.session_id);
  call->arrival = engine_.clock.Now();
  absl::StatusOr<Admission::Admitted> admitted =
      engine_.admission.Submit(engine_.Resolved(std::move(request)));
  if (!admitted.ok()) {
    ++counts_.refusals[CodeName(admitted.status())];
    // All sessions may be busy, so that none can leave for a new one.
    const bool no_place =
        call->session == nullptr &&
        admitted.status().code() == absl::StatusCode::kResourceExhausted;
    // It may also have to wait too long, and is then told when to return.
    const bool too_long = RetryAfter(admitted.status()).has_value() &&
                          expected != absl::StatusCode::kUnavailable;
    if (too_long) {
      ++counts_.overdue;
      EXPECT_TRUE(absl::IsUnavailable(admitted.status()));
      EXPECT_TRUE(expected == absl::StatusCode::kOk ||
                  expected == absl::StatusCode::kResourceExhausted);
      EXPECT_NE(engine_.options.admission.max_queue_time,
                absl::InfiniteDuration());
    }
    EXPECT_TRUE(admitted.status().code() == expected || no_place || too_long)
        << admitted.status() << ", not " << absl::StatusCodeToString(expected);
    // Whoever is told that a session has gone may start anew.
    if (departed_.contains(call->request.session_id) && Chance(50)) {
      EXPECT_TRUE(engine_.sessions.Delete(call->request.session_id).ok());
      departed_.erase(call->request.session_id);
    }
    return;
  }
  EXPECT_EQ(expected, absl::StatusCode::kOk);
  if (auto* record =
          std::get_if<std::shared_ptr<const TurnRecord>>(&*admitted)) {
    return CheckReplay(call->request, std::move(*record));
  }
  const bool turn = call->request.kind == RequestKind::kGenerate;
  if (turn && !call->request.session_id.empty()) {
    if (call->session == nullptr) {
      call->session = std::make_shared<Session>();
      sessions_[call->request.session_id] = call->session;
    }
    call->session->running = true;
  }
  if (call->session != nullptr) call->version = call->session->version();
  if (turn) {
    // Received tokens must make no difference.
    const Tokens history =
        call->session == nullptr ? Tokens() : call->session->tokens;
    call->expected = engine_.Expect(history, call->request);
  }
  if (Chance(30)) call->read_percent = static_cast<int>(Uniform(0, 30));
  call->reader = Reader(std::get<std::shared_ptr<TokenStream>>(*admitted));
  EXPECT_TRUE(running_.emplace(call->request.request_id, call).second);
}

void Simulation::CheckReplay(const Request& request,
                             std::shared_ptr<const TurnRecord> record) {
  ++counts_.replays;
  const SessionPointer session = Known(request.session_id);
  ASSERT_TRUE(session != nullptr);
  EXPECT_EQ(record->request_id, request.request_id);
  EXPECT_EQ(session->committed.back(), request.request_id);
  EXPECT_EQ(record->tokens, session->last_answer);
  EXPECT_EQ(record->completed.version, session->version());
  absl::StatusOr<std::unique_ptr<Replay>> replay =
      Replay::Create(record, engine_.Resolved(request), nullptr);
  // A fragment may have been kept that is shorter than what was received of
  // another try.
  const bool same =
      request.received.size() <= record->tokens.size() &&
      request.received == Prefix(record->tokens, request.received.size());
  ASSERT_EQ(replay.ok(), same) << replay.status();
  if (!same) return;
  Tokens told = request.received;
  Event event;
  while ((*replay)->Next(&event)) {
    if (auto* token = std::get_if<TokenEvent>(&event))
      told.push_back(token->id);
  }
  EXPECT_EQ(told, record->tokens);
}

// --- What the engine does.

void Simulation::OnEnd(const RequestSummary& summary) {
  const auto found = running_.find(summary.request_id);
  ASSERT_TRUE(found != running_.end()) << summary.request_id << " ends twice";
  const CallPointer call = found->second;
  ++counts_.ends[CodeName(summary.status)];
  ++call->ends;
  call->status = summary.status;
  running_.erase(found);
  ended_.push_back(call);
  CheckEnd(*call, summary);
  if (!call->is_turn() || call->deleted) return;
  call->session->running = false;
  if (!summary.finish_reason.empty()) return Commit(*call, summary);
  // One that the turn made is gone with it.
  if (call->session->version() == 0 &&
      Known(call->request.session_id) == call->session &&
      !engine_.sessions.Get(call->request.session_id).ok()) {
    sessions_.erase(call->request.session_id);
  }
}

// A request ends only by a reason that there is.
void Simulation::CheckEnd(const Call& call, const RequestSummary& summary) {
  SCOPED_TRACE(
      absl::StrCat(summary.request_id, ": ", summary.status.ToString()));
  switch (summary.status.code()) {
    case absl::StatusCode::kOk:
      EXPECT_FALSE(call.expected.broken);
      EXPECT_FALSE(call.deleted);
      if (call.request.kind == RequestKind::kGenerate) {
        EXPECT_EQ(summary.usage.generated_tokens, call.expected.tokens.size());
      }
      break;
    case absl::StatusCode::kCancelled:
      EXPECT_TRUE(call.cancelled || call.deleted);
      break;
    case absl::StatusCode::kDeadlineExceeded:
      EXPECT_GE(engine_.clock.Now(), call.request.deadline);
      break;
    case absl::StatusCode::kResourceExhausted:
      EXPECT_LT(call.read_percent, 100);
      break;
    case absl::StatusCode::kInternal:
      if (call.request.kind == RequestKind::kScore || device_fails_) break;
      EXPECT_TRUE(call.expected.broken);
      break;
    case absl::StatusCode::kNotFound:
      EXPECT_EQ(call.request.kind, RequestKind::kScore);
      EXPECT_FALSE(call.request.session_id.empty());
      break;
    case absl::StatusCode::kInvalidArgument:
      // The session that it looks at has too many tokens.
      EXPECT_EQ(call.request.kind, RequestKind::kScore);
      EXPECT_TRUE(engine_.options.has_attention);
      EXPECT_FALSE(call.request.session_id.empty());
      break;
    case absl::StatusCode::kUnavailable: {
      const bool overdue = RetryAfter(summary.status).has_value();
      counts_.overdue += overdue;
      EXPECT_TRUE(draining_ || overdue);
      if (!overdue) break;
      EXPECT_EQ(summary.timing.prefill, absl::ZeroDuration());
      EXPECT_GT(engine_.clock.Now() - call.arrival,
                engine_.options.admission.max_queue_time);
      break;
    }
    default:
      ADD_FAILURE() << "no request may end so";
  }
  EXPECT_LE(summary.usage.generated_tokens, call.expected.tokens.size());
}

void Simulation::Commit(const Call& call, const RequestSummary& summary) {
  Session& session = *call.session;
  EXPECT_TRUE(summary.status.ok() || call.request.keep_partial);
  EXPECT_NE(summary.status.code(), absl::StatusCode::kInternal);
  session.last_answer =
      Prefix(call.expected.tokens, summary.usage.generated_tokens);
  session.tokens.insert(session.tokens.end(), call.request.prompt.begin(),
                        call.request.prompt.end());
  session.tokens.insert(session.tokens.end(), session.last_answer.begin(),
                        session.last_answer.end());
  session.pending = !session.last_answer.empty();
  session.tokens_at.push_back(session.tokens.size());
  session.committed.push_back(call.request.request_id);
}

void Simulation::CheckLimits() {
  const TestEngineOptions& options = engine_.options;
  const SessionCounts counts = engine_.sessions.Counts();
  EXPECT_LE(engine_.admission.inbox().waiting(), options.admission.max_queue);
  EXPECT_LE(engine_.engine.running(), options.model.slots);
  EXPECT_LE(engine_.sessions.List(-1, "", 1000).size(),
            options.sessions.sessions);
  // Sessions that hold a slot or run a turn have their own fields in RAM and
  // cannot be dropped there, nor can one that has just been made.
  size_t turns = 0;
  for (const auto& [id, session] : sessions_) turns += session->running;
  EXPECT_LE(
      counts.ram_bytes,
      options.sessions.memory_bytes +
          (counts.models[0].sessions_in_slots + turns + 1) * kSessionFields);
}

// No slot is lost: when the engine has taken back those of sessions that are
// gone, each is free, runs a sequence or holds a committed state.
void Simulation::CheckSlots() {
  engine_.engine.RunOnce();
  engine_.engine.RunOnce();
  const int64_t in_sessions =
      engine_.sessions.Counts().models[0].sessions_in_slots;
  EXPECT_EQ(engine_.model.states().free_slots() + engine_.engine.running() +
                in_sessions,
            engine_.options.model.slots);
  // Nor is a block: when nothing runs, sessions hold what their tokens need,
  // and nothing is set apart.
  const KeyValueUse keys = engine_.model.states().key_values();
  if (keys.blocks == 0 || engine_.engine.running() > 0) return;
  size_t bytes = engine_.sessions.Counts().models[0].state_bytes_in_slots;
  bytes -= in_sessions * engine_.model.info().state_bytes;
  EXPECT_EQ(keys.used * kBlockBytes, bytes);
  EXPECT_EQ(keys.available() + keys.used, keys.blocks);
}

// Every session that is still there holds its history and nothing else.
void Simulation::CheckSessions() {
  ScriptedModel probe(
      &engine_.script,
      {.slots = 1,
       .max_batch_tokens = 1,
       .max_logits_rows = 1,
       .kv_bytes = engine_.options.model.kv_bytes + kBlockBytes},
      engine_.options.has_attention);
  const int slot = probe.states().Take();
  for (const auto& [id, session] : sessions_) {
    SCOPED_TRACE(id);
    const absl::StatusOr<SessionHandle> handle = engine_.sessions.Find(id);
    if (!handle.ok()) {
      EXPECT_TRUE(!session->running || session->version() == 0);
      continue;
    }
    const absl::StatusOr<StateSnapshots::Snapshot> snapshot =
        engine_.StateOf(*handle);
    ASSERT_TRUE(snapshot.ok()) << snapshot.status();
    EXPECT_EQ(snapshot->turns.version, session->version());
    EXPECT_EQ(snapshot->turns.position, session->position());
    EXPECT_EQ(snapshot->turns.pending.has_value(), session->pending);
    ASSERT_EQ(snapshot->block != nullptr, session->position() > 0);
    if (snapshot->block == nullptr) continue;
    if (session->pending) {
      EXPECT_EQ(*snapshot->turns.pending, session->tokens.back());
    }
    // Its state says what its tokens would.
    probe.states().Restore(slot, snapshot->block->data(),
                           snapshot->turns.position);
    Script::Sequence sequence;
    for (int32_t token : Prefix(session->tokens, session->position())) {
      sequence.Feed(token);
    }
    const Tokens next = {1};
    sequence.Feed(1);
    if (engine_.script.BreaksState(sequence)) continue;
    Batch batch;
    batch.rows.push_back({slot, next, LogitsWanted::kLast, false});
    const absl::StatusOr<StepResult> result = probe.Step(batch);
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(std::vector<float>(result->logits.begin(), result->logits.end()),
              engine_.script.LogitsAfter(sequence));
  }
}

// What the client read is what the model says, from where it went on.
void Simulation::CheckAnswer(const Call& call) {
  SCOPED_TRACE(call.request.request_id);
  EXPECT_EQ(call.ends, 1);
  EXPECT_TRUE(call.reader.ended());
  EXPECT_EQ(call.reader.status(), call.status);
  const Tokens ids = call.reader.ids();
  if (call.request.kind == RequestKind::kScore) {
    EXPECT_EQ(ids, Prefix(call.request.prompt, ids.size()));
    if (!call.status.ok()) return;
    Tokens history;
    if (call.session != nullptr) {
      history = Prefix(call.session->tokens,
                       call.session->tokens_at[call.reader.started()->version]);
    }
    bool broken = false;
    EXPECT_EQ(
        call.reader.logprobs(),
        ExpectScore(engine_.script, history, call.request.prompt, &broken));
    EXPECT_FALSE(broken);
    return;
  }
  Tokens all = call.request.received;
  all.insert(all.end(), ids.begin(), ids.end());
  EXPECT_EQ(all, Prefix(call.expected.tokens, all.size()));
  if (!ids.empty()) {
    EXPECT_EQ(call.reader.tokens()[0].index, call.request.received.size());
  }
  if (call.reader.started().has_value()) {
    EXPECT_EQ(call.reader.started()->version, call.version);
  }
  if (call.status.ok()) {
    ASSERT_TRUE(call.reader.completed().has_value());
    EXPECT_EQ(all, call.expected.tokens);
    EXPECT_EQ(call.reader.completed()->finish_reason,
              call.expected.finish_reason);
    EXPECT_EQ(call.reader.completed()->version,
              call.version + (call.is_turn() ? 1 : 0));
  }
}

void Simulation::Drain() {
  const bool failed = engine_.admission.inbox().closed();
  EXPECT_TRUE(device_fails_ || !failed);
  draining_ = true;
  engine_.admission.inbox().Close("draining");
  engine_.engine.Drain(engine_.clock.Now() + absl::Seconds(5));
  while (!failed && !running_.empty() && !::testing::Test::HasFailure()) {
    engine_.engine.RunOnce();
    Read();
    engine_.clock.Advance(absl::Milliseconds(100));
    // It may fail only now.
    if (device_fails_ && engine_.engine.idle() &&
        engine_.admission.inbox().waiting() == 0) {
      break;
    }
  }
  EXPECT_TRUE(running_.empty() || ::testing::Test::HasFailure());
  CheckSlots();
  CheckSessions();
  EXPECT_EQ(engine_.engine.running(), 0);
  EXPECT_EQ(engine_.engine.parked(), 0);
  EXPECT_EQ(engine_.sessions.Counts().parked_bytes, 0);
  for (const CallPointer& call : ended_) {
    call->reader.Read();
    CheckAnswer(*call);
  }
}

}  // namespace engram
