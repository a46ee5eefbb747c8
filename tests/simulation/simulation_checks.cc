// What must hold in a simulation after each step and at each end.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/status.h"
#include "tests/simulation/simulation.h"
#include "tools/status/retry_after.h"

namespace engram {

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
  if (call->session->made_by_turn &&
      Known(NameIn(call->request)) == call->session &&
      !engine_.sessions.Get(call->request.session()).ok()) {
    sessions_.erase(NameIn(call->request));
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
      // What it only looks at was deleted.
      EXPECT_FALSE(call.is_turn());
      EXPECT_TRUE(call.session != nullptr || call.checkpoint != nullptr);
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
  session.made_by_turn = false;
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
  const int device =
      engine_.sessions.DeviceOf(call.request.session()).value_or(-1);
  if (device < 0) return;
  counts_.moves += session.device >= 0 && session.device != device;
  session.device = device;
}

void Simulation::CheckLimits() {
  const TenantHandle& limited = tenants_[1];
  const auto calls =
      std::count_if(running_.begin(), running_.end(), [&](const auto& named) {
        return named.second->request.tenant == limited;
      });
  EXPECT_EQ(limited->streams(), calls) << "a place is lost";
  EXPECT_LE(calls, limited->limits().streams.value_or(calls));
  const TestEngineOptions& options = engine_.options;
  const SessionCounts counts = engine_.sessions.Counts();
  for (int i = 0; i < options.devices; ++i) {
    EXPECT_LE(engine_.admission.inbox(i).waiting(),
              options.admission.max_queue);
    EXPECT_LE(engine_.engine_of(i).running(), options.model.slots);
  }
  EXPECT_LE(ListedSessions(), options.sessions.sessions);
  // Sessions that hold a slot or run a turn have their own fields in RAM and
  // cannot be dropped there, nor can one that has just been made.
  size_t turns = 0;
  for (const auto& [id, session] : sessions_) turns += session->running;
  EXPECT_LE(counts.ram_bytes, options.sessions.memory_bytes +
                                  (counts.models[0].sessions_in_slots + turns +
                                   checkpoints_.size() + 1) *
                                      kSessionFields);
}

// No slot is lost: when the engines have taken back those of sessions that are
// gone or have moved, each is free, runs a sequence or holds a committed state.
void Simulation::CheckSlots() {
  const int64_t slots = engine_.options.devices * engine_.options.model.slots;
  int64_t found = 0;
  int64_t in_sessions = 0;
  // An engine may give away in a step what it, or another, has yet to take
  // back.
  for (int i = 0; i < 20 && found != slots; ++i) {
    // It does that between steps, which a task makes it come to.
    for (int k = 0; k < engine_.options.devices; ++k) {
      (void)engine_.admission.inbox(k).Post([] {});
    }
    backend_.Complete();
    engine_.RunOnce();
    engine_.RunOnce();
    in_sessions = engine_.sessions.Counts().models[0].sessions_in_slots;
    found = in_sessions + running() + spare_slots() + held_slots();
    for (int k = 0; k < engine_.options.devices; ++k) {
      found += engine_.model_of(k).states().free_slots();
    }
  }
  // Nor has it those that first rows of what runs are still to read.
  EXPECT_LE(found, slots);
  EXPECT_GE(found + running(), slots);
  // Nor is a block: when nothing runs, sessions hold what their tokens need,
  // and nothing is set apart.
  KeyValueUse keys;
  for (int i = 0; i < engine_.options.devices; ++i) {
    const KeyValueUse use = engine_.model_of(i).states().key_values();
    keys.blocks += use.blocks;
    keys.used += use.used;
    keys.reserved += use.reserved;
  }
  if (keys.blocks == 0 || running() + held_slots() > 0) return;
  size_t bytes = engine_.sessions.Counts().models[0].state_bytes_in_slots;
  bytes -= in_sessions * engine_.model.info().state_bytes;
  EXPECT_EQ(keys.used * kBlockBytes, bytes);
  EXPECT_EQ(keys.available() + keys.used, keys.blocks);
}

size_t Simulation::ListedSessions() const {
  size_t listed = 0;
  for (const TenantHandle& tenant : tenants_) {
    listed += engine_.sessions.List(tenant, -1, "", 1000).size();
  }
  return listed;
}

int64_t Simulation::HeldSessions() const {
  int64_t held = 0;
  for (const TenantUse& use : engine_.sessions.UsesOfTenants()) {
    held += use.sessions;
  }
  return held;
}

void Simulation::CheckLists() {
  size_t there = 0;
  for (const auto& [name, session] : sessions_) {
    there += engine_.sessions.Get(NameOf(name)).ok();
  }
  EXPECT_EQ(ListedSessions(), there);
  size_t checkpoints = 0;
  for (const TenantHandle& tenant : tenants_) {
    for (const SessionInfo& info :
         engine_.sessions.ListCheckpoints(tenant, -1, "", 1000)) {
      ++checkpoints;
      EXPECT_TRUE(checkpoints_.contains(
          absl::StrCat(NumberOf(tenant), ":", info.session_id)));
    }
  }
  EXPECT_EQ(checkpoints, checkpoints_.size());
  std::vector<int64_t> counted(tenants_.size());
  for (const TenantUse& use : engine_.sessions.UsesOfTenants()) {
    counted[NumberOf(use.tenant)] = use.sessions;
  }
  for (const TenantHandle& tenant : tenants_) {
    const auto listed = engine_.sessions.List(tenant, -1, "", 1000);
    // Those in their first turn are counted and not listed.
    EXPECT_LE(listed.size(), counted[NumberOf(tenant)]);
    for (const SessionInfo& info : listed) {
      const std::string name =
          absl::StrCat(NumberOf(tenant), ":", info.session_id);
      SCOPED_TRACE(name);
      const SessionPointer session = Known(name);
      ASSERT_TRUE(session != nullptr);
      EXPECT_EQ(info.version, session->version());
      EXPECT_EQ(info.position, session->position());
    }
  }
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
    const absl::StatusOr<SessionHandle> handle =
        engine_.sessions.Find(NameOf(id));
    if (!handle.ok()) {
      EXPECT_TRUE(!session->running || session->made_by_turn);
      continue;
    }
    CheckState(&probe, slot, *handle, *session);
  }
  for (const auto& [id, checkpoint] : checkpoints_) {
    SCOPED_TRACE(absl::StrCat("checkpoint ", id));
    const absl::StatusOr<SessionHandle> handle =
        engine_.sessions.UseCheckpoint(NameOf(id), engine_.number);
    ASSERT_TRUE(handle.ok()) << handle.status();
    CheckState(&probe, slot, *handle, *checkpoint);
  }
}

void Simulation::CheckState(ScriptedModel* probe, int slot,
                            const SessionHandle& handle,
                            const Session& session) {
  const absl::StatusOr<StateSnapshots::Snapshot> snapshot =
      engine_.StateOf(handle);
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ(snapshot->turns.version, session.version());
  EXPECT_EQ(snapshot->turns.position, session.position());
  EXPECT_EQ(snapshot->turns.pending.has_value(), session.pending);
  ASSERT_EQ(snapshot->block != nullptr, session.position() > 0);
  if (snapshot->block == nullptr) return;
  if (session.pending) {
    EXPECT_EQ(*snapshot->turns.pending, session.tokens.back());
  }
  // Its state says what its tokens would.
  ENGRAM_CHECK_OK(probe->states().Restore(slot, snapshot->block->data(),
                                          snapshot->turns.position));
  Script::Sequence sequence;
  for (int32_t token : Prefix(session.tokens, session.position())) {
    sequence.Feed(token);
  }
  const Tokens next = {1};
  sequence.Feed(1);
  if (engine_.script.BreaksState(sequence)) return;
  const SamplingParameters greedy;
  Batch batch;
  batch.rows.push_back({.slot = slot,
                        .tokens = next,
                        .wanted = Wanted::kToken,
                        .draw = {.parameters = &greedy}});
  ASSERT_TRUE(probe->Begin(batch).ok());
  ASSERT_TRUE(probe->Finish().ok());
  EXPECT_EQ(probe->LogitsForTest(), engine_.script.LogitsAfter(sequence));
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
    } else if (call.checkpoint != nullptr) {
      history = call.checkpoint->tokens;
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

}  // namespace engram
