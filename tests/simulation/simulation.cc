#include "tests/simulation/simulation.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

constexpr int kIterations = 1000;
constexpr int kSessions = 4;  // ids that clients of each tenant use
constexpr int64_t kVocabulary = 16;

}  // namespace

void SimulationCounts::Add(const SimulationCounts& other) {
  for (const auto& [code, count] : other.ends) ends[code] += count;
  for (const auto& [code, count] : other.refusals) refusals[code] += count;
  for (const auto& [code, count] : other.fork_refusals) {
    fork_refusals[code] += count;
  }
  replays += other.replays;
  resumed += other.resumed;
  for (const auto& [code, count] : other.checkpoint_refusals) {
    checkpoint_refusals[code] += count;
  }
  forks += other.forks;
  checkpoints += other.checkpoints;
  from_checkpoints += other.from_checkpoints;
  departed += other.departed;
  parked += other.parked;
  with_spares += other.with_spares;
  overdue += other.overdue;
  told += other.told;
  moves += other.moves;
  held += other.held;
  over_quota += other.over_quota;
  steps += other.steps;
}

// --- Set-up.

TestEngineOptions Simulation::RandomOptions(Backend* backend,
                                            std::mt19937_64* random) {
  const auto uniform = [random](int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(*random);
  };
  TestEngineOptions options;
  if (uniform(0, 1) == 1) options.backend = backend;
  options.delivers_by_hand = true;
  options.vocabulary_size = kVocabulary;
  // The ids are bytes.
  static const Tokenizer* const tokenizer = MakeByteTokenizer().release();
  options.tokenizer = tokenizer;
  options.eos_token_ids = {0};
  options.model.slots = uniform(1, 5);
  options.model.max_batch_tokens = uniform(1, 12);
  options.model.max_logits_rows =
      uniform(2, options.model.max_batch_tokens + 1);
  options.has_attention = uniform(0, 1) == 1;
  options.runs_ahead = uniform(0, 1) == 1;
  options.devices = uniform(1, 2);
  options.model.kv_bytes = uniform(2, 16) * kBlockBytes;
  options.admission.max_queue = uniform(2, 8);
  options.admission.max_prompt_tokens = 20;
  options.admission.max_generated_tokens = 12;
  options.admission.stream_tokens = uniform(1, 8);
  options.sessions.memory_bytes =
      (uniform(0, 3) == 0 ? uniform(100, 300) : uniform(0, 60)) *
      kSessionFields;
  options.sessions.sessions = uniform(4, 12);
  options.sessions.checkpoints = uniform(1, 4);
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
    : random_(seed),
      cpu_(std::move(MakeBackend({BackendKind::kCpu, 1}).value())),
      backend_(cpu_.get()),
      engine_(RandomOptions(&backend_, &random_)) {
  backend_.Hold();
  TenantLimits limits;
  limits.weight = 2;
  if (Chance(30)) limits.streams = Uniform(1, 4);
  if (Chance(30)) limits.tokens_per_second = Uniform(1, 100);
  tenants_[1]->SetLimits(limits);
  engine_.on_end = [this](const RequestSummary& summary) { OnEnd(summary); };
  if (Chance(50)) engine_.script.BreakStateOneIn(Uniform(50, 2000));
  device_fails_ = engine_.options.devices == 1 && Chance(10);
  if (device_fails_) engine_.model.FailStep(Uniform(1, kIterations));
}

int64_t Simulation::Uniform(int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(random_);
}

std::string Simulation::RandomSession() {
  return RandomSessionOf(
      SessionName(tenants_[Uniform(0, tenants_.size() - 1)], ""));
}

std::string Simulation::RandomSessionOf(const SessionName& other) {
  return absl::StrCat(NumberOf(other.tenant), ":s", Uniform(1, kSessions));
}

SessionName Simulation::NameOf(const std::string& name) const {
  return SessionName(tenants_[name[0] - '0'], name.substr(2));
}

std::string Simulation::NameIn(const Request& request) {
  return absl::StrCat(NumberOf(request.tenant), ":", request.session_id);
}

void Simulation::SetSession(const std::string& name, Request* request) const {
  const SessionName session = NameOf(name);
  request->tenant = session.tenant;
  request->session_id = session.id;
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
    RunEngines();
    counts_.parked += parked() > 0;
    counts_.with_spares += spare_slots() > 0;
    counts_.held += held_slots() > 0;
    // Some readers are told late, while the engine runs on.
    Deliver(static_cast<int>(Uniform(0, 4)));
    Read();
    CheckLimits();
    if (Chance(5)) CheckSlots();
    Deliver();
    Read();
    if (Chance(5)) {
      CheckSessions();
      CheckLists();
    }
    engine_.clock.Advance(absl::Milliseconds(Uniform(0, 500)));
    if (Chance(1)) engine_.clock.Advance(absl::Seconds(Uniform(1, 60)));
    if (::testing::Test::HasFailure()) break;  // what follows tells less
  }
  Drain();
  for (int i = 0; i < engine_.options.devices; ++i) {
    counts_.steps += engine_.model_of(i).steps();
  }
  return counts_;
}

void Simulation::RunEngines() {
  backend_.Complete(static_cast<int>(Uniform(0, 2)));
  const bool others_first = Chance(50);
  for (int i = 1; i < engine_.options.devices; ++i) {
    if (others_first) engine_.engine_of(i).RunOnce();
  }
  engine_.engine.RunOnce();
  for (int i = 1; i < engine_.options.devices; ++i) {
    if (!others_first && Chance(50)) engine_.engine_of(i).RunOnce();
  }
}

// --- The end.

void Simulation::Drain() {
  const bool failed = engine_.admission.inbox().closed();
  EXPECT_TRUE(device_fails_ || !failed);
  draining_ = true;
  for (int i = 0; i < engine_.options.devices; ++i) {
    engine_.admission.inbox(i).Close("draining");
    engine_.engine_of(i).Drain(engine_.clock.Now() + absl::Seconds(5));
  }
  while (!failed && !running_.empty() && !::testing::Test::HasFailure()) {
    backend_.Complete(static_cast<int>(Uniform(0, 2)));
    engine_.RunOnce();
    Deliver();
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
  CheckLists();
  EXPECT_EQ(running(), 0);
  EXPECT_EQ(parked(), 0);
  EXPECT_EQ(engine_.sessions.Counts().parked_bytes, 0);
  engine_.delivery.Finish();
  for (const CallPointer& call : ended_) {
    call->reader.Read();
    CheckAnswer(*call);
  }
}

}  // namespace engram
