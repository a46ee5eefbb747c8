#include "tests/support/scripted_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "kernels/status.h"
#include "tests/support/plain_sampler.h"

namespace engram {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int kDigestFloats =
    4;  // 16 bits in each, which a float holds exactly
// What a model with attention keeps.
constexpr KeyValueShape kKeyShape = {.layers = 1, .width = 1};

// The finaliser of splitmix64.
uint64_t Mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

Script::Sequence Feed(const Tokens& tokens) {
  Script::Sequence sequence;
  for (int32_t id : tokens) sequence.Feed(id);
  return sequence;
}

bool Contains(const Tokens& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

// --- Script.

void Script::Sequence::Feed(int32_t id) {
  digest = Mix(digest ^ (static_cast<uint64_t>(id) + 1));
  ++count;
}

void Script::BreakStateAfter(const Tokens& tokens) {
  broken_states_.insert(Feed(tokens).digest);
}

void Script::BreakLogitsAfter(const Tokens& tokens) {
  broken_logits_.insert(Feed(tokens).digest);
}

bool Script::BreaksState(const Sequence& sequence) const {
  if (broken_states_.contains(sequence.digest)) return true;
  return break_one_in_ > 0 && Mix(sequence.digest) % break_one_in_ == 0;
}

std::vector<float> Script::LogitsAfter(const Sequence& sequence) const {
  if (broken_logits_.contains(sequence.digest)) {
    return std::vector<float>(vocabulary_size_, kNan);
  }
  std::vector<float> logits(vocabulary_size_);
  for (int64_t id = 0; id < vocabulary_size_; ++id) {
    // Multiples of 2^-10 in [-4, 4).
    const uint64_t bits = Mix(sequence.digest + Mix(id)) >> 51;
    logits[id] = static_cast<float>(bits) / 1024 - 4;
  }
  const auto said = said_.find(sequence.count);
  if (said != said_.end()) logits[said->second] = 100;
  return logits;
}

// --- ScriptedModel.

ScriptedModel::ScriptedModel(const Script* script, const ModelLimits& limits,
                             bool has_attention, Backend* backend)
    : script_(script), limits_(limits) {
  if (backend == nullptr) {
    absl::StatusOr<std::unique_ptr<Backend>> own =
        MakeBackend({.kind = BackendKind::kCpu, .threads = 1});
    ENGRAM_CHECK_OK(own.status());
    own_backend_ = *std::move(own);
    backend = own_backend_.get();
  }
  backend_ = backend;
  // Two components that must both travel with a session, and one that is never
  // read: it makes the state weigh more than the rest of a session.
  absl::StatusOr<std::unique_ptr<StatePool>> states = StatePool::Create(
      backend,
      {{.name = "digest", .layers = 2, .shape = {kDigestFloats / 2}},
       {.name = "count", .layers = 1, .shape = {1}},
       {.name = "ballast", .layers = 1, .shape = {1024}}},
      limits.slots, has_attention ? kKeyShape : KeyValueShape(),
      limits.kv_bytes);
  ENGRAM_CHECK_OK(states.status());
  states_ = *std::move(states);
  if (has_attention) {
    info_.kv_bytes_per_token = kKeyShape.token_bytes();
    info_.kv_block_bytes = kKeyShape.block_bytes();
    info_.kv_blocks = states_->key_values().blocks;
  }
  info_.family = "scripted";
  info_.vocabulary_size = script->vocabulary_size();
  info_.layers = 2;
  info_.state_bytes = states_->state_bytes();
  info_.backend = backend->name();
}

void ScriptedModel::CheckContract(const Batch& batch) {
  int tokens = 0;
  int logits_rows = 0;
  std::set<int> read, written;
  EXPECT_FALSE(batch.rows.empty()) << "an empty step";
  for (const BatchRow& row : batch.rows) {
    tokens += static_cast<int>(row.tokens.size());
    logits_rows += row.outcomes();
    EXPECT_EQ(row.tokens.empty(), row.follows) << "a row without tokens";
    EXPECT_EQ(row.follows, !begun_.empty()) << "ahead, rows follow others";
    EXPECT_LE(row.scored.size(),
              row.tokens.size() + (row.scored_before ? 1 : 0));
    EXPECT_TRUE(states_->IsTaken(row.slot)) << "slot " << row.slot;
    EXPECT_TRUE(states_->IsTaken(row.out())) << "slot " << row.out();
    EXPECT_TRUE(written.insert(row.out()).second)
        << "slot " << row.out() << " is written by two rows";
    if (row.out() != row.slot) read.insert(row.slot);
    for (int32_t id : row.tokens) {
      EXPECT_GE(id, 0);
      EXPECT_LT(id, script_->vocabulary_size());
    }
  }
  for (int slot : read) {
    EXPECT_FALSE(written.contains(slot))
        << "slot " << slot << " is written by one row and read by another";
  }
  EXPECT_LE(tokens, limits_.max_batch_tokens);
  EXPECT_LE(logits_rows, limits_.max_logits_rows);
}

bool ScriptedModel::Load(int slot, Script::Sequence* sequence) {
  bool sound = true;
  for (int i = 0; i < kDigestFloats; ++i) {
    const float part = states_->Layer(0, i / 2)[slot][i % 2];
    sound = sound && std::isfinite(part);
    sequence->digest = sequence->digest << 16;
    if (sound) sequence->digest |= static_cast<uint64_t>(part);
  }
  sequence->count = static_cast<int64_t>(*states_->Layer(1, 0)[slot]);
  return sound;
}

void ScriptedModel::Store(int slot, const Script::Sequence& sequence,
                          bool sound) {
  for (int i = 0; i < kDigestFloats; ++i) {
    const uint64_t part = sequence.digest >> (16 * (kDigestFloats - 1 - i));
    states_->Layer(0, i / 2)[slot][i % 2] =
        sound ? static_cast<float>(part & 0xffff) : kNan;
  }
  *states_->Layer(1, 0)[slot] = static_cast<float>(sequence.count);
}

float* ScriptedModel::Key(int slot, int64_t position) {
  const int32_t block =
      states_->blocks_of(slot)[position / kKeyValueBlockTokens];
  return states_->KeyValueLayer(0)[block] + position % kKeyValueBlockTokens;
}

void ScriptedModel::CheckKeys(int slot, const Script::Sequence& sequence,
                              bool sound) {
  ASSERT_EQ(states_->tokens(slot), sequence.count);
  if (info_.kv_blocks == 0) return;
  Script::Sequence kept;
  for (int64_t i = 0; i < sequence.count; ++i) {
    kept.Feed(static_cast<int32_t>(*Key(slot, i)));
  }
  if (!sound) return;
  EXPECT_EQ(kept.digest, sequence.digest) << "keys of another text";
}

absl::Status ScriptedModel::AddKeys(int slot_in, int slot_out,
                                    absl::Span<const int32_t> tokens) {
  int64_t position = states_->tokens(slot_in);
  ENGRAM_RETURN_IF_ERROR(
      states_->Append(slot_in, slot_out, static_cast<int64_t>(tokens.size())));
  if (info_.kv_blocks == 0) return absl::OkStatus();
  for (int32_t id : tokens) *Key(slot_out, position++) = static_cast<float>(id);
  return absl::OkStatus();
}

void ScriptedModel::AddOutcome(const Script::Sequence& sequence, bool sound,
                               const OutcomeRequest& request, Step* step) {
  std::vector<float> row(script_->vocabulary_size(), kNan);
  if (sound) row = script_->LogitsAfter(sequence);
  logits_.insert(logits_.end(), row.begin(), row.end());
  step->outcomes.push_back(PlainOutcome(row, request));
}

std::vector<int32_t> ScriptedModel::TokensOf(const BatchRow& row) const {
  if (!row.follows) return {row.tokens.begin(), row.tokens.end()};
  const Step& before = begun_.back();
  size_t outcome = 0;
  for (size_t i = 0; i < before.slots.size(); ++i) {
    if (before.slots[i] == row.slot) {
      if (before.outcome_count[i] == 0) return {};  // it followed a stop itself
      const Outcome& drawn = before.outcomes[outcome];
      if (drawn.stops || !before.sound[i]) return {};
      return {drawn.token};
    }
    outcome += before.outcome_count[i];
  }
  ADD_FAILURE() << "slot " << row.slot << " follows no row";
  return {};
}

absl::StatusOr<bool> ScriptedModel::RunRow(const BatchRow& row, Step* step) {
  const std::vector<int32_t> tokens = TokensOf(row);
  step->slots.push_back(row.out());
  step->outcome_count.push_back(tokens.empty() ? 0 : row.outcomes());
  Script::Sequence sequence;
  bool sound = Load(row.slot, &sequence);
  CheckKeys(row.slot, sequence, sound);
  if (tokens.empty()) return true;
  ENGRAM_RETURN_IF_ERROR(AddKeys(row.slot, row.out(), tokens));
  OutcomeRequest request;
  request.alternatives = row.alternatives;
  absl::Span<const int32_t> scored = row.scored;
  const auto score_next = [&] {
    if (row.wanted != Wanted::kScores || scored.empty()) return;
    request.scored = scored[0];
    scored.remove_prefix(1);
    AddOutcome(sequence, sound, request, step);
  };
  if (row.scored_before) {
    EXPECT_GT(sequence.count, 0) << "a score before a slot's first token";
    score_next();
  }
  for (int32_t id : tokens) {
    sequence.Feed(id);
    sound = sound && !script_->BreaksState(sequence);
    score_next();
  }
  if (row.wanted == Wanted::kToken) {
    request.draw = row.draw;
    if (row.follows) request.draw.newest = tokens[0];
    AddOutcome(sequence, sound, request, step);
  }
  Store(row.out(), sequence, sound);
  return sound;
}

absl::Status ScriptedModel::Begin(const Batch& batch) {
  EXPECT_LT(begun_.size(), 2) << "two steps are begun, and none is finished";
  ++steps_;
  if (!begun_.empty()) ++steps_ahead_;
  finished_.clear();
  CheckContract(batch);
  logits_.clear();
  last_step_.clear();
  Step step;
  // What comes after a failure fails too.
  step.fails = steps_ == fail_at_ || (!begun_.empty() && begun_.back().fails);
  if (!step.fails) {
    for (const BatchRow& row : batch.rows) {
      last_step_.push_back(
          {row.follows ? 1 : static_cast<int>(row.tokens.size())});
      ENGRAM_ASSIGN_OR_RETURN(const bool sound, RunRow(row, &step));
      step.sound.push_back(sound);
    }
    if (during_step_) during_step_();
  }
  begun_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::StatusOr<StepResult> ScriptedModel::Finish() {
  EXPECT_FALSE(begun_.empty()) << "a step is finished that was not begun";
  Step& step = finished_.emplace_back(std::move(begun_.front()));
  begun_.pop_front();
  if (step.fails) return absl::InternalError("the device is on fire");
  // Copies may go on.
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceEvent> done,
                          backend_->RecordEvent());
  ENGRAM_RETURN_IF_ERROR(done->Wait());
  StepResult result;
  auto rest = absl::MakeConstSpan(step.outcomes);
  for (size_t i = 0; i < step.slots.size(); ++i) {
    const auto own = rest.first(step.outcome_count[i]);
    result.rows.push_back({.finite = step.sound[i], .outcomes = own});
    rest.remove_prefix(own.size());
  }
  return result;
}

// --- Looks into states.

namespace {

// Of a state that Store has written: its halves, as they are found.
Script::Sequence SequenceOf(const StatePool& states, const void* block) {
  Script::Sequence sequence;
  if (block == nullptr) return sequence;
  for (int i = 0; i < kDigestFloats; ++i) {
    const float part = states.SavedLayer(block, 0, i / 2)[i % 2];
    sequence.digest = sequence.digest << 16 | static_cast<uint64_t>(part);
  }
  sequence.count = static_cast<int64_t>(*states.SavedLayer(block, 1, 0));
  return sequence;
}

class ScriptedInspection final : public Inspection {
 public:
  ScriptedInspection(int parts, std::function<bool()> may_work,
                     std::function<absl::StatusOr<InspectionAnswer>()> answer)
      : parts_(parts),
        may_work_(std::move(may_work)),
        answer_(std::move(answer)) {}

  absl::StatusOr<bool> Advance() override {
    EXPECT_TRUE(may_work_()) << "a step is begun";
    EXPECT_GT(parts_, 0) << "it was done";
    if (--parts_ > 0) return false;
    absl::StatusOr<InspectionAnswer> answer = answer_();
    if (!answer.ok()) return answer.status();
    found_ = *std::move(answer);
    return true;
  }
  InspectionAnswer TakeAnswer() override { return std::move(found_); }

 private:
  int parts_;
  const std::function<bool()> may_work_;
  const std::function<absl::StatusOr<InspectionAnswer>()> answer_;
  InspectionAnswer found_;
};

}  // namespace

int32_t ScriptedModel::LikeliestAfter(const Script::Sequence& sequence) const {
  const std::vector<float> logits = script_->LogitsAfter(sequence);
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) -
                              logits.begin());
}

absl::StatusOr<std::unique_ptr<Inspection>> ScriptedModel::Inspect(
    InspectionQuestion question) {
  const auto answer = [this, question]() -> absl::StatusOr<InspectionAnswer> {
    if (inspections_fail_) {
      return absl::InternalError("the device is on fire");
    }
    const Script::Sequence saved = SequenceOf(*states_, question.state);
    EXPECT_EQ(saved.count, question.position);
    InspectionAnswer found;
    if (question.describe) {
      StateSummary summary;
      summary.window_tokens = saved.count;
      found.states.push_back(summary);
      if (!question.queries.empty()) found.fading_token = question.queries[0];
    }
    if (question.attribution.has_value()) {
      EXPECT_FALSE(question.tokens.empty());
      found.attribution.emplace();
      found.attribution->tokens = question.tokens;
      Script::Sequence sequence = saved;
      for (const int32_t id : question.tokens) sequence.Feed(id);
      found.attribution->target = LikeliestAfter(sequence);
    }
    if (question.ablation.has_value()) {
      EXPECT_FALSE(question.tokens.empty());
      found.ablation.emplace();
      found.ablation->tokens = question.tokens;
      Script::Sequence sequence = saved;
      for (const int32_t id : question.tokens) sequence.Feed(id);
      AnsweredToken token;
      token.id = LikeliestAfter(sequence);
      found.ablation->untouched.push_back(token);
      found.ablation->edited = found.ablation->untouched;
    }
    for (const int32_t query : question.queries) {
      Script::Sequence sequence = saved;
      for (const int32_t id : question.tokens) sequence.Feed(id);
      sequence.Feed(query);
      found.queries.push_back({query, {{LikeliestAfter(sequence), 0}}, {}});
    }
    return found;
  };
  return std::make_unique<ScriptedInspection>(
      kInspectionParts, [this] { return begun_.empty(); }, answer);
}

// --- What is expected.

namespace {

// Ends at the first of the stop strings that `text` holds. False: none.
bool CutAtStop(const std::vector<std::string>& stops, std::string* text) {
  size_t cut = std::string::npos;
  for (const std::string& stop : stops) cut = std::min(cut, text->find(stop));
  if (cut == std::string::npos) return false;
  text->resize(cut);
  return true;
}

// The text of the tokens but for a stop token at their end.
std::string TextOf(const Tokens& tokens, const Tokenizer* tokenizer) {
  if (tokenizer == nullptr) return "";
  TextDecoder decoder(tokenizer);
  std::string text;
  for (int32_t id : tokens) {
    if (!tokenizer->IsSpecial(id)) text += decoder.Append(id).text;
  }
  return text + decoder.Flush();
}

}  // namespace

ExpectedAnswer ExpectAnswer(const Script& script, const Tokens& history,
                            const Request& request, const Tokenizer* tokenizer,
                            const Tokens& eos_token_ids) {
  ExpectedAnswer answer;
  Script::Sequence sequence;
  TokenSet seen(script.vocabulary_size());
  std::map<int32_t, int32_t> counts;
  // False if that breaks the state.
  const auto feed = [&](int32_t id) {
    sequence.Feed(id);
    seen.Insert(id);
    answer.broken = answer.broken || script.BreaksState(sequence);
    return !answer.broken;
  };
  for (int32_t id : history) {
    if (!feed(id)) return answer;
  }
  for (int32_t id : request.prompt) {
    if (!feed(id)) return answer;
  }
  Tokens spoken;  // those with text
  while (static_cast<int64_t>(answer.tokens.size()) <
         request.stopping.max_tokens) {
    if (!answer.tokens.empty() && !feed(answer.tokens.back())) return answer;
    const std::vector<float> logits = script.LogitsAfter(sequence);
    const int32_t id =
        PlainSample(logits, {.parameters = &request.sampling,
                             .index = static_cast<uint64_t>(sequence.count),
                             .seen = &seen,
                             .generated = &counts});
    ENGRAM_CHECK(id >= 0);
    answer.tokens.push_back(id);
    ++counts[id];
    const bool stop_token =
        Contains(request.stopping.stop_token_ids, id) ||
        (!request.stopping.ignore_eos && Contains(eos_token_ids, id));
    if (!stop_token) spoken.push_back(id);
    answer.text = TextOf(spoken, tokenizer);
    if (stop_token || CutAtStop(request.stopping.stop, &answer.text)) {
      answer.finish_reason = FinishReason::kStop;
      return answer;
    }
  }
  return answer;
}

std::vector<std::optional<float>> ExpectScore(const Script& script,
                                              const Tokens& history,
                                              const Tokens& prompt,
                                              bool* broken) {
  Script::Sequence sequence;
  bool breaks = false;
  const auto feed = [&](int32_t id) {
    sequence.Feed(id);
    breaks = breaks || script.BreaksState(sequence);
  };
  for (int32_t id : history) feed(id);
  std::vector<std::optional<float>> scores;
  for (int32_t id : prompt) {
    if (sequence.count == 0) {
      scores.emplace_back();
    } else {
      scores.emplace_back(LogProbabilityOf(script.LogitsAfter(sequence), id));
    }
    feed(id);
  }
  if (broken != nullptr) *broken = breaks;
  return scores;
}

}  // namespace engram
