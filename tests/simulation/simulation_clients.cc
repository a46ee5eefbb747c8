// What the clients of a simulation do.
#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/replay.h"
#include "tests/simulation/simulation.h"

namespace engram {

void Simulation::Act() {
  switch (Uniform(0, 21)) {
    case 20:
      return MakeCheckpoint();
    case 21:
      return Chance(30) ? DeleteCheckpoint() : MakeCheckpoint();
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
  const std::string name = Chance(70) ? RandomSession() : "0:";
  Request request = TestEngine::Turn("", absl::StrCat("r", ++next_request_),
                                     RandomTokens(1, 20), Uniform(0, 12));
  SetSession(name, &request);
  SessionPointer session = Known(name);
  if (Chance(session == nullptr ? 30 : 3)) {
    request.from_checkpoint = absl::StrCat("s", Uniform(1, 2));
    if (session == nullptr) session = CheckpointOf(request);
  }
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
  if (Chance(30)) {
    const Tokens stop = RandomTokens(1, 2);
    request.stopping.stop = {std::string(stop.begin(), stop.end())};
  }
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
  const SessionPointer session = Known(NameIn(request));
  if (request.session_id.empty() && CheckpointOf(request) != call->checkpoint) {
    request.received.clear();
  }
  if (session != call->session ||
      (session != nullptr && session->version() != call->version &&
       std::find(session->committed.begin(), session->committed.end(),
                 request.request_id) == session->committed.end())) {
    request.received.clear();
  }
  Submit(std::move(request));
}

void Simulation::Score() {
  Request request = TestEngine::Score("", RandomTokens(1, 20));
  SetSession(Chance(70) ? RandomSession() : "0:", &request);
  request.request_id = absl::StrCat("r", ++next_request_);
  if (request.session_id.empty() && Chance(50)) {
    request.from_checkpoint = absl::StrCat("s", Uniform(1, 2));
  }
  Submit(std::move(request));
}

void Simulation::Create() {
  const std::string id = RandomSession();
  NewSession created = {.name = NameOf(id)};
  SessionPointer start;
  if (Chance(50)) {
    created.from_checkpoint = absl::StrCat("s", Uniform(1, 2));
    const auto found = checkpoints_.find(absl::StrCat(
        NumberOf(created.name.tenant), ":", created.from_checkpoint));
    if (found != checkpoints_.end()) start = found->second;
  }
  const bool from_nothing =
      !created.from_checkpoint.empty() && start == nullptr;
  const absl::Status status = engine_.sessions.Create(created).status();
  const bool taken = status.code() == absl::StatusCode::kAlreadyExists;
  if (taken) {
    EXPECT_TRUE(Known(id) != nullptr) << id;
    return;
  }
  if (status.code() == absl::StatusCode::kResourceExhausted) return;
  EXPECT_EQ(absl::IsNotFound(status), from_nothing) << status;
  if (from_nothing) return;
  EXPECT_TRUE(status.ok()) << status;
  if (Known(id) != nullptr) Depart(id);
  departed_.erase(id);
  sessions_[id] = std::make_shared<Session>();
  if (start == nullptr) return;
  ++counts_.from_checkpoints;
  *sessions_[id] = *start;
}

void Simulation::MakeCheckpoint() {
  const std::string source = RandomSession();
  const std::string name =
      absl::StrCat(source.substr(0, 2), "s", Uniform(1, 2));
  const absl::StatusOr<SessionHandle> handle =
      engine_.sessions.Find(NameOf(source));
  if (!handle.ok()) {
    return CheckCheckpointRefusal(source, name, handle.status());
  }
  const absl::StatusOr<StateSnapshots::Snapshot> snapshot =
      engine_.StateOf(*handle);
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  const absl::Status status =
      engine_.sessions
          .InstallCheckpoint(*handle, {.id = NameOf(name).id}, snapshot->turns,
                             snapshot->block)
          .status();
  if (!status.ok()) return CheckCheckpointRefusal(source, name, status);
  ++counts_.checkpoints;
  EXPECT_FALSE(checkpoints_.contains(name));
  auto checkpoint = std::make_shared<Session>(*Known(source));
  checkpoint->running = checkpoint->made_by_turn = false;
  checkpoint->committed.clear();
  checkpoint->device = -1;
  checkpoints_[name] = std::move(checkpoint);
}

void Simulation::DeleteCheckpoint() {
  if (checkpoints_.empty()) return;
  const auto checkpoint =
      std::next(checkpoints_.begin(), Uniform(0, checkpoints_.size() - 1));
  const absl::Status status =
      engine_.sessions.DeleteCheckpoint(NameOf(checkpoint->first));
  EXPECT_TRUE(status.ok()) << status;
  checkpoints_.erase(checkpoint);
}

void Simulation::Delete() {
  const std::string id = RandomSession();
  const SessionPointer session = Known(id);
  const absl::Status status = engine_.sessions.Delete(NameOf(id));
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
  const std::string target = RandomSessionOf(NameOf(source));
  EngineInbox& inbox = engine_.admission.inbox();
  // Another engine may wait for a state there too.
  const bool has_room = inbox.tasks() < engine_.options.admission.max_queue;
  const absl::Status posted = inbox.Post([this, source, target] {
    const absl::StatusOr<SessionHandle> handle =
        engine_.sessions.Find(NameOf(source));
    if (!handle.ok()) {
      return CheckForkRefusal(source, ExpectedForkRefusal(source, target),
                              handle.status());
    }
    CopyForFork(source, *handle, target);
  });
  // Only a full queue of tasks and a server that has closed say no.
  EXPECT_EQ(posted.ok(), has_room) << posted;
  if (!posted.ok()) {
    EXPECT_EQ(posted.code(), absl::StatusCode::kUnavailable);
  }
}

void Simulation::CopyForFork(const std::string& source,
                             const SessionHandle& handle,
                             const std::string& target) {
  const int device = engine_.sessions.DeviceOf(NameOf(source)).value_or(0);
  const SessionPointer session = Known(source);
  const int64_t version = session == nullptr ? 0 : session->version();
  engine_.engine_of(device).TakeSnapshot(
      handle, [this, source, target, version,
               handle](absl::StatusOr<StateSnapshots::Snapshot> snapshot) {
        if (snapshot.ok()) {
          EXPECT_GE(snapshot->turns.version, version) << "older than asked for";
          return InstallFork(source, handle, target, *snapshot);
        }
        // It has gone on on another device.
        if (absl::IsAborted(snapshot.status())) {
          return CopyForFork(source, handle, target);
        }
        ++counts_.fork_refusals[CodeName(snapshot.status())];
        // A device that is not always run has copies to make for long.
        if (absl::IsUnavailable(snapshot.status())) {
          EXPECT_GT(engine_.options.devices, 1);
          return;
        }
        // It left to make room for another fork.
        EXPECT_EQ(snapshot.status().code(), absl::StatusCode::kNotFound);
        EXPECT_NE(engine_.sessions.Find(NameOf(source)).value_or(nullptr),
                  handle);
      });
}

void Simulation::InstallFork(const std::string& source,
                             const SessionHandle& handle,
                             const std::string& target,
                             const StateSnapshots::Snapshot& snapshot) {
  const SessionPointer session = Known(source);
  const absl::StatusCode expected = ExpectedForkRefusal(source, target);
  const absl::Status status = engine_.sessions
                                  .InstallFork(handle, NameOf(target).id,
                                               snapshot.turns, snapshot.block)
                                  .status();
  if (!status.ok()) return CheckForkRefusal(source, expected, status);
  EXPECT_EQ(expected, absl::StatusCode::kOk);
  ++counts_.forks;
  ASSERT_TRUE(session != nullptr);
  // It may have gone on while it was copied.
  const int64_t version = snapshot.turns.version;
  ASSERT_LE(version, session->version());
  if (Known(target) != nullptr) Depart(target);
  departed_.erase(target);
  auto fork = std::make_shared<Session>(*session);
  fork->tokens_at.resize(version + 1);
  fork->tokens = Prefix(session->tokens, fork->tokens_at.back());
  fork->pending = snapshot.turns.pending.has_value();
  EXPECT_EQ(snapshot.turns.position, fork->position());
  fork->running = false;
  fork->committed.clear();
  sessions_[target] = std::move(fork);
}

void Simulation::Cancel() {
  if (running_.empty()) return;
  auto call = std::next(running_.begin(), Uniform(0, running_.size() - 1));
  call->second->cancelled = true;
  call->second->reader.Cancel();
}

void Simulation::Deliver(int most) {
  for (; most > 0 && engine_.delivery.TellNext(); --most) ++counts_.told;
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

Simulation::SessionPointer Simulation::CheckpointOf(
    const Request& request) const {
  const auto found = checkpoints_.find(
      absl::StrCat(NumberOf(request.tenant), ":", request.from_checkpoint));
  return found == checkpoints_.end() ? nullptr : found->second;
}

void Simulation::Depart(const std::string& id) {
  const SessionPointer session = Known(id);
  ASSERT_TRUE(session != nullptr);
  EXPECT_FALSE(session->running) << id << " left while a turn ran";
  if (session->position() > 0) departed_.insert(id);
  sessions_.erase(id);
  ++counts_.departed;
}

int Simulation::FullQueues() {
  int full = 0;
  for (int i = 0; i < engine_.options.devices; ++i) {
    full += engine_.admission.inbox(i).waiting() >=
            engine_.options.admission.max_queue;
  }
  return full;
}

void Simulation::Submit(Request request) {
  const absl::StatusCode expected = ExpectedRefusal(request);
  // Which of several devices it is for, the simulation does not say.
  const bool may_be_full = FullQueues() > 0;
  // Whoever leaves for a new session may be another tenant's, for whom then
  // less is kept.
  const bool may_leave_room =
      Known(NameIn(request)) == nullptr &&
      HeldSessions() >= engine_.options.sessions.sessions;
  auto call = std::make_shared<Call>();
  call->request = request;
  call->session = Known(NameIn(request));
  call->checkpoint = CheckpointOf(request);
  call->arrival = engine_.clock.Now();
  absl::StatusOr<Admission::Admitted> admitted =
      engine_.admission.Submit(engine_.Resolved(std::move(request)));
  if (!admitted.ok()) {
    CheckRefusal(*call, expected, may_be_full, admitted.status());
    // Whoever is told that a session has gone may start anew.
    if (departed_.contains(NameIn(call->request)) && Chance(50)) {
      EXPECT_TRUE(engine_.sessions.Delete(call->request.session()).ok());
      departed_.erase(NameIn(call->request));
    }
    return;
  }
  EXPECT_TRUE(
      expected == absl::StatusCode::kOk ||
      (may_leave_room && expected == absl::StatusCode::kResourceExhausted))
      << absl::StatusCodeToString(expected);
  if (auto* record =
          std::get_if<std::shared_ptr<const TurnRecord>>(&*admitted)) {
    return CheckReplay(call->request, std::move(*record));
  }
  const bool turn = call->request.kind == RequestKind::kGenerate;
  if (turn && !call->request.session_id.empty()) {
    if (call->session == nullptr) {
      call->session = call->checkpoint == nullptr
                          ? std::make_shared<Session>()
                          : std::make_shared<Session>(*call->checkpoint);
      call->session->made_by_turn = true;
      sessions_[NameIn(call->request)] = call->session;
    }
    call->session->running = true;
  }
  counts_.from_checkpoints += call->checkpoint != nullptr;
  const SessionPointer start =
      call->session == nullptr ? call->checkpoint : call->session;
  if (start != nullptr) call->version = start->version();
  if (turn) {
    // Received tokens must make no difference.
    const Tokens history = start == nullptr ? Tokens() : start->tokens;
    call->expected = engine_.Expect(history, call->request);
  }
  if (Chance(30)) call->read_percent = static_cast<int>(Uniform(0, 30));
  call->reader = Reader(std::get<std::shared_ptr<TokenStream>>(*admitted));
  if (Chance(50)) call->reader.WaitToBeTold();
  EXPECT_TRUE(running_.emplace(call->request.request_id, call).second);
}

void Simulation::CheckReplay(const Request& request,
                             std::shared_ptr<const TurnRecord> record) {
  ++counts_.replays;
  const SessionPointer session = Known(NameIn(request));
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

}  // namespace engram
