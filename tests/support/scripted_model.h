// ScriptedModel: a Model without weights, whose answers tell whether it was fed
// right.
//
// Its state is a digest of all tokens of the sequence, kept in the slot of a
// real StatePool; its logits are a function of that digest. A token that is
// lost, doubled or fed to a wrong slot, and a slot that is used again without
// being cleared, change every answer that follows. ExpectAnswer and ExpectScore
// compute the right answers from the tokens alone, without slots and steps.
//
// Engine thread only, like every Model.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "server/request.h"

namespace engram {

using Tokens = std::vector<int32_t>;

// What the model says, as a function of the tokens that it was fed.
class Script {
 public:
  explicit Script(int64_t vocabulary_size)
      : vocabulary_size_(vocabulary_size) {}

  // Once a sequence has `position` tokens, `id` is by far the likeliest next.
  void Say(int64_t position, int32_t id) { said_[position] = id; }
  void Say(int64_t position, const Tokens& ids) {
    for (size_t i = 0; i < ids.size(); ++i) Say(position + i, ids[i]);
  }
  // The hidden state becomes NaN when the last of `tokens` is fed.
  void BreakStateAfter(const Tokens& tokens);
  // The same after one in `count` of all sequences there are.
  void BreakStateOneIn(uint64_t count) { break_one_in_ = count; }
  // The state is sound but all logits after `tokens` are NaN.
  void BreakLogitsAfter(const Tokens& tokens);

  // A sequence of tokens: their count and a digest of them.
  struct Sequence {
    uint64_t digest = 0;
    int64_t count = 0;
    void Feed(int32_t id);
  };
  bool BreaksState(const Sequence& sequence) const;
  std::vector<float> LogitsAfter(const Sequence& sequence) const;
  int64_t vocabulary_size() const { return vocabulary_size_; }

 private:
  int64_t vocabulary_size_;
  std::map<int64_t, int32_t> said_;
  std::set<uint64_t> broken_states_;
  std::set<uint64_t> broken_logits_;
  uint64_t break_one_in_ = 0;
};

class ScriptedModel final : public Model {
 public:
  // `script` must outlive the model and may change between steps. With
  // `has_attention` every token is kept as a key too, in limits.kv_bytes, and a
  // step fails the test if a slot's keys are not its tokens.
  // `backend` holds its states and must outlive it; nullptr: one of its own.
  ScriptedModel(const Script* script, const ModelLimits& limits,
                bool has_attention = false, Backend* backend = nullptr);

  const ModelInfo& info() const override { return info_; }
  const ModelLimits& limits() const override { return limits_; }
  StatePool& states() override { return *states_; }
  // Add a test failure for whatever breaks the contract of Model. Tokens are
  // drawn by the plain sampler.
  absl::Status Begin(const Batch& batch) override;
  absl::StatusOr<StepResult> Finish() override;
  std::vector<float> LogitsForTest() const override { return logits_; }
  // In kInspectionParts parts. Each query is answered with the likeliest id
  // after the state, the tokens and the query, and by no layer; a state is
  // described by how many tokens it has, as its window; an attribution has the
  // likeliest id after the tokens as its target, and no layer. Fails the test
  // if the state is not what StatePool::Save writes, or a step is begun.
  absl::StatusOr<std::unique_ptr<Inspection>> Inspect(
      InspectionQuestion question) override;
  static constexpr int kInspectionParts = 4;
  // From now on the device fails in the last part of each.
  void FailInspections() { inspections_fail_ = true; }

  // From now on it says that steps are worth beginning ahead of others.
  void RunAhead() { info_.runs_ahead = true; }
  // How many were.
  int64_t steps_ahead() const { return steps_ahead_; }

  // The `count`-th step from now fails, when it is to be finished: 1 is the
  // next.
  void FailStep(int64_t count) { fail_at_ = steps_ + count; }
  // Runs in the middle of every step, as another thread could.
  void SetDuringStep(std::function<void()> during_step) {
    during_step_ = std::move(during_step);
  }

  // One row of a step that has run.
  struct RowShape {
    int tokens = 0;
  };
  int64_t steps() const { return steps_; }
  const std::vector<RowShape>& last_step() const { return last_step_; }

 private:
  // A step that is begun, or the last one finished.
  struct Step {
    std::vector<int> slots;          // where its rows leave their states
    std::vector<Outcome> outcomes;   // of all rows
    std::vector<int> outcome_count;  // of each
    std::vector<bool> sound;         // likewise
    bool fails = false;
  };

  void CheckContract(const Batch& batch);
  // What the row feeds: its tokens, or what the row that it follows has drawn.
  std::vector<int32_t> TokensOf(const BatchRow& row) const;
  // False if the state is broken.
  bool Load(int slot, Script::Sequence* sequence);
  void Store(int slot, const Script::Sequence& sequence, bool sound);
  // Feeds the row and finds its outcomes. False if the state is broken.
  absl::StatusOr<bool> RunRow(const BatchRow& row, Step* step);
  // What the sequence's logits answer.
  void AddOutcome(const Script::Sequence& sequence, bool sound,
                  const OutcomeRequest& request, Step* step);
  // Compares the keys of a slot with its sequence.
  void CheckKeys(int slot, const Script::Sequence& sequence, bool sound);
  // Those of the sequence in slot_in and of `tokens` are slot_out's.
  absl::Status AddKeys(int slot_in, int slot_out,
                       absl::Span<const int32_t> tokens);
  float* Key(int slot, int64_t position);
  int32_t LikeliestAfter(const Script::Sequence& sequence) const;

  const Script* const script_;
  const ModelLimits limits_;
  std::unique_ptr<Backend> own_backend_;
  Backend* backend_ = nullptr;
  std::unique_ptr<StatePool> states_;
  ModelInfo info_;
  std::vector<float> logits_;
  std::deque<Step> begun_;
  std::deque<Step> finished_;  // since the last begin
  int64_t steps_ = 0;
  int64_t steps_ahead_ = 0;
  int64_t fail_at_ = -1;
  bool inspections_fail_ = false;
  std::vector<RowShape> last_step_;
  std::function<void()> during_step_;
};

// What a request must be answered with, computed from tokens alone.
struct ExpectedAnswer {
  Tokens tokens;
  std::string text;  // all of it, the held-back tail included
  FinishReason finish_reason = FinishReason::kLength;
  bool broken = false;  // the state breaks: INTERNAL after these tokens
};
// `history`: all tokens of the session, the pending one included.
ExpectedAnswer ExpectAnswer(const Script& script, const Tokens& history,
                            const Request& request, const Tokenizer* tokenizer,
                            const Tokens& eos_token_ids);
// One per prompt token; nothing for the first without earlier context.
// `broken` (may be nullptr) tells whether the state breaks on the way.
std::vector<std::optional<float>> ExpectScore(const Script& script,
                                              const Tokens& history,
                                              const Tokens& prompt,
                                              bool* broken = nullptr);

}  // namespace engram
