// The promise that sessions rest on: however a sequence is cut into steps,
// saved, copied or run beside others, its logits are the same, bit for bit.
// Expected values are those of one step over the whole sequence, alone.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "model/load_model.h"
#include "model/model.h"
#include "tests/model/golden_model.h"
#include "tests/model/model_folder.h"
#include "tests/model/step.h"
#include "tests/support/forwarding_backend.h"
#include "tests/support/plain_sampler.h"

namespace engram {
namespace {

using Tokens = std::vector<int32_t>;
using Logits = std::vector<float>;  // some rows of them

constexpr int kSequences = 32;
// Beyond two blocks of keys and values, and beyond every window.
constexpr int kLength = 2 * kKeyValueBlockTokens + 7;

// Bits, not values: NaN equals itself here and -0 does not equal 0.
bool SameBits(absl::Span<const float> a, absl::Span<const float> b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// A family by a small random model of it.
struct Family {
  const char* name;
  int64_t vocab;
  int64_t d_model;
  void (*write)(const TemporaryFolder& folder);
  std::optional<WeightFormat> weights = std::nullopt;
};
void PrintTo(const Family& family, std::ostream* out) { *out << family.name; }

template <class Shape>
Family MakeFamily(const char* name, const Shape& shape,
                  void (*write)(const TemporaryFolder& folder),
                  std::optional<WeightFormat> weights = std::nullopt) {
  return {name, shape.vocab, shape.d_model, write, weights};
}

RandomH3Shape HybridShape() {
  RandomH3Shape shape;
  shape.attention_layers = {1};
  shape.rotary_dim = 2;
  return shape;
}
RandomH3Shape S4dShape() {
  RandomH3Shape shape;
  shape.family = "s4d";
  return shape;
}
RandomH3Shape AttentionShape() {
  RandomH3Shape shape;
  shape.family = "attention";
  shape.mlp_width = 0;
  shape.positions = kLength;
  return shape;
}

const Family kFamilies[] = {
    MakeFamily(
        "Mamba", RandomMambaShape(),
        [](const TemporaryFolder& folder) { WriteRandomMamba(folder, {}); }),
    MakeFamily(
        "Mamba2", RandomMamba2Shape(),
        [](const TemporaryFolder& folder) { WriteRandomMamba2(folder, {}); }),
    MakeFamily(
        "HybridMamba2", RandomHybridShape(),
        [](const TemporaryFolder& folder) { WriteRandomHybrid(folder, {}); }),
    MakeFamily(
        "H3", RandomH3Shape(),
        [](const TemporaryFolder& folder) { WriteRandomH3(folder, {}); }),
    MakeFamily("HybridH3", HybridShape(),
               [](const TemporaryFolder& folder) {
                 WriteRandomH3(folder, HybridShape());
               }),
    MakeFamily("S4d", S4dShape(),
               [](const TemporaryFolder& folder) {
                 WriteRandomH3(folder, S4dShape());
               }),
    MakeFamily("Attention", AttentionShape(),
               [](const TemporaryFolder& folder) {
                 WriteRandomH3(folder, AttentionShape());
               }),
    MakeFamily(
        "MambaInt8", RandomMambaShape(),
        [](const TemporaryFolder& folder) { WriteRandomMamba(folder, {}); },
        WeightFormat::kInt8),
    MakeFamily(
        "MambaInt4", RandomMambaShape(),
        [](const TemporaryFolder& folder) { WriteRandomMamba(folder, {}); },
        WeightFormat::kInt4),
};

class ModelEquivalence : public testing::TestWithParam<Family> {
 protected:
  ModelEquivalence() {
    family_.write(folder_);
    model_ = Load(0);
    std::mt19937 random(7);
    for (Tokens& tokens : sequences_) {
      for (int i = 0; i < kLength; ++i) {
        tokens.push_back(random() % family_.vocab);
      }
    }
  }

  std::unique_ptr<Model> Load(int64_t known_ids) {
    return Load(known_ids, backend_.get());
  }
  std::unique_ptr<Model> Load(int64_t known_ids, Backend* backend) {
    ModelLimits limits;
    limits.slots = kSequences + 1;
    limits.max_batch_tokens = kSequences * kLength;
    limits.max_logits_rows = kSequences * kLength;
    limits.kv_bytes = size_t{4} << 20;
    limits.weight_format = family_.weights;
    auto model = LoadModel(folder_.path(), backend, limits, known_ids);
    ENGRAM_CHECK_OK(model.status());
    return std::move(*model);
  }

  StatePool& states() { return model_->states(); }

  StepLogits Step(const Batch& batch) {
    auto result = RunStep(model_.get(), batch);
    ENGRAM_CHECK_OK(result.status());
    return *result;
  }

  // Feeds one row alone.
  Logits Feed(int slot, absl::Span<const int32_t> tokens, LogitsWanted wanted,
              bool logits_before = false) {
    return Feed(RowWith(wanted, slot, tokens, logits_before));
  }

  Logits Feed(const BatchRow& row) {
    const StepLogits result = Step(Batch{{row}});
    EXPECT_TRUE(result.finite[0]);
    return result.logits;
  }

  // All logits of a sequence, in one step.
  Logits Whole(const Tokens& tokens) {
    const int slot = states().Take();
    Logits logits = Feed(slot, tokens, LogitsWanted::kAll);
    states().Free(slot);
    return logits;
  }

  absl::Span<const float> RowsOf(const Logits& logits, size_t first,
                                 size_t count) {
    return absl::MakeConstSpan(logits).subspan(first * family_.vocab,
                                               count * family_.vocab);
  }

  std::string Saved(int slot) {
    std::string block(states().bytes(slot), '?');
    ENGRAM_CHECK_OK(states().Save(slot, block.data()));
    return block;
  }

  const Family& family_ = GetParam();
  TemporaryFolder folder_;
  const std::unique_ptr<Backend> backend_ =
      TwoThreadBackend({.deterministic = true});
  std::unique_ptr<Model> model_;
  Tokens sequences_[kSequences];
};

TEST_P(ModelEquivalence, HoldsForEveryCutIntoPiecesOfOneSize) {
  const Tokens& tokens = sequences_[0];
  const Logits whole = Whole(tokens);
  for (size_t size = 1; size < tokens.size(); ++size) {
    const int slot = states().Take();
    Logits logits;
    for (size_t first = 0; first < tokens.size(); first += size) {
      const Logits piece =
          Feed(slot, absl::MakeConstSpan(tokens).subspan(first, size),
               LogitsWanted::kAll);
      logits.insert(logits.end(), piece.begin(), piece.end());
    }
    EXPECT_TRUE(SameBits(logits, whole)) << "pieces of " << size;
    states().Free(slot);
  }
}

// Where the back end is free to scan chunks.
TEST_P(ModelEquivalence, HoldsForCutsBetweenChunksAndNearlyForOthers) {
  const std::unique_ptr<Backend> backend = TwoThreadBackend();
  model_ = Load(0, backend.get());
  const auto all = absl::MakeConstSpan(sequences_[0]);
  const Logits whole = Whole(sequences_[0]);
  for (size_t cut : {1, 33, 63, 64, 65}) {
    const int slot = states().Take();
    Logits logits = Feed(slot, all.first(cut), LogitsWanted::kAll);
    const Logits rest = Feed(slot, all.subspan(cut), LogitsWanted::kAll);
    logits.insert(logits.end(), rest.begin(), rest.end());
    states().Free(slot);
    if (cut % backend->ssd_chunk_tokens() == 0) {
      EXPECT_TRUE(SameBits(logits, whole)) << "cut at " << cut;
      continue;
    }
    for (size_t i = 0; i < whole.size(); ++i) {
      ASSERT_NEAR(logits[i], whole[i], 5e-4) << "cut at " << cut;
    }
  }
  model_.reset();  // before its back end
}

TEST_P(ModelEquivalence, HoldsForEveryCutInTwoWithASaveBetween) {
  const Tokens& tokens = sequences_[1];
  const Logits whole = Whole(tokens);
  for (size_t cut = 1; cut < tokens.size(); ++cut) {
    const auto all = absl::MakeConstSpan(tokens);
    const int slot = states().Take();
    Feed(slot, all.subspan(0, cut), LogitsWanted::kNone);
    const std::string block = Saved(slot);
    states().Free(slot);

    // Into another slot, while the old one is used by somebody else.
    const int stranger = states().Take();
    const int restored = states().TryTake(kLength);
    Feed(stranger, sequences_[2], LogitsWanted::kNone);
    ENGRAM_CHECK_OK(
        states().Restore(restored, block.data(), static_cast<int64_t>(cut)));
    const Logits rest = Feed(restored, all.subspan(cut), LogitsWanted::kAll);
    EXPECT_TRUE(SameBits(rest, RowsOf(whole, cut, tokens.size() - cut)))
        << "cut at " << cut;
    states().Free(stranger);
    states().Free(restored);
  }
}

TEST_P(ModelEquivalence, HoldsForACopiedSlotAndItsSource) {
  const auto all = absl::MakeConstSpan(sequences_[3]);
  const Logits whole = Whole(sequences_[3]);
  const int source = states().Take();
  const int copy = states().TryTake(kLength);
  Feed(source, all.subspan(0, 9), LogitsWanted::kNone);
  ENGRAM_CHECK_OK(states().CopySlot(copy, source));
  const Logits of_copy = Feed(copy, all.subspan(9), LogitsWanted::kAll);
  const Logits of_source = Feed(source, all.subspan(9), LogitsWanted::kAll);
  EXPECT_TRUE(SameBits(of_copy, RowsOf(whole, 9, kLength - 9)));
  EXPECT_TRUE(SameBits(of_source, of_copy));
  EXPECT_EQ(Saved(source), Saved(copy));
}

// The full blocks of keys and values are shared by a slot and its copies, and
// must outlive any of them.
TEST_P(ModelEquivalence, HoldsForCopiesOfCopiesWhoseSourcesAreGone) {
  const auto all = absl::MakeConstSpan(sequences_[9]);
  const Logits whole = Whole(sequences_[9]);
  constexpr int kPiece = 10;
  int slot = states().Take();
  int fed = 0;
  for (; fed + kPiece < kLength; fed += kPiece) {
    Feed(slot, all.subspan(fed, kPiece), LogitsWanted::kNone);
    const int copy = states().TryTake(kLength);
    ENGRAM_CHECK_OK(states().CopySlot(copy, slot));
    // What the source goes on with must not be seen by the copy.
    Feed(slot, absl::MakeConstSpan(sequences_[10]).subspan(fed + kPiece),
         LogitsWanted::kNone);
    states().Free(slot);
    slot = copy;
  }
  EXPECT_TRUE(SameBits(Feed(slot, all.subspan(fed), LogitsWanted::kAll),
                       RowsOf(whole, fed, kLength - fed)));
}

TEST_P(ModelEquivalence, HoldsBesideOthersOfOtherLengths) {
  Batch batch;
  for (int i = 0; i < kSequences; ++i) {
    const auto tokens = absl::MakeConstSpan(sequences_[i]);
    batch.rows.push_back(RowWith(LogitsWanted::kAll, states().Take(),
                                 tokens.subspan(0, 1 + i % kLength)));
  }
  const StepLogits result = Step(batch);
  const Logits& together = result.logits;
  size_t first = 0;
  for (int i = 0; i < kSequences; ++i) {
    const size_t count = batch.rows[i].tokens.size();
    const Logits whole = Whole(sequences_[i]);
    EXPECT_TRUE(
        SameBits(RowsOf(together, first, count), RowsOf(whole, 0, count)))
        << "row " << i;
    first += count;
  }
}

TEST_P(ModelEquivalence, HoldsForDecodingBesideAPrompt) {
  std::vector<int> slots;
  std::vector<Logits> expected;
  for (const Tokens& tokens : sequences_) {
    expected.push_back(Whole(tokens));
    slots.push_back(states().Take());
  }
  // Sequence i is fed in one piece at step i and token by token afterwards.
  for (int step = 0; step + 1 < kLength; ++step) {
    Batch batch;
    std::vector<std::pair<int, int>> sources;
    for (int i = 0; i < kSequences && i <= step; ++i) {
      const auto tokens = absl::MakeConstSpan(sequences_[i]);
      const int first = i == step ? 0 : step;
      batch.rows.push_back(RowWith(LogitsWanted::kLast, slots[i],
                                   tokens.subspan(first, step + 1 - first)));
      sources.push_back({i, step});
    }
    const StepLogits result = Step(batch);
    const Logits& logits = result.logits;
    for (size_t row = 0; row < sources.size(); ++row) {
      const auto [sequence, token] = sources[row];
      EXPECT_TRUE(SameBits(RowsOf(logits, row, 1),
                           RowsOf(expected[sequence], token, 1)))
          << "sequence " << sequence << ", token " << token;
    }
  }
}

TEST_P(ModelEquivalence, HoldsForEveryKindOfLogitsWanted) {
  const Tokens& tokens = sequences_[4];
  const Logits whole = Whole(tokens);
  const int slot = states().Take();
  EXPECT_TRUE(SameBits(Feed(slot, tokens, LogitsWanted::kLast),
                       RowsOf(whole, kLength - 1, 1)));
  const std::string after_last = Saved(slot);
  const int other = states().Take();
  EXPECT_TRUE(Feed(other, tokens, LogitsWanted::kNone).empty());
  EXPECT_EQ(Saved(other), after_last);
}

TEST_P(ModelEquivalence, LogitsBeforeAreTheLastOnesOfTheStepBefore) {
  const auto tokens = absl::MakeConstSpan(sequences_[5]);
  const Logits whole = Whole(sequences_[5]);
  const int slot = states().Take();
  Feed(slot, tokens.subspan(0, 6), LogitsWanted::kNone);
  EXPECT_TRUE(
      SameBits(Feed(slot, tokens.subspan(6, 4), LogitsWanted::kAll, true),
               RowsOf(whole, 5, 5)));
  EXPECT_TRUE(
      SameBits(Feed(slot, tokens.subspan(10, 2), LogitsWanted::kNone, true),
               RowsOf(whole, 9, 1)));
}

TEST_P(ModelEquivalence, LogitsBeforeStandFirstInEachRow) {
  Batch fed;
  Batch batch;
  for (int i = 0; i < 3; ++i) {
    const auto tokens = absl::MakeConstSpan(sequences_[i]);
    const int slot = states().Take();
    fed.rows.push_back({slot, tokens.subspan(0, 4)});
    batch.rows.push_back(
        i == 1 ? RowWith(LogitsWanted::kLast, slot, tokens.subspan(4, 3))
               : RowWith(LogitsWanted::kAll, slot, tokens.subspan(4, 3), true));
  }
  Step(fed);
  const StepLogits result = Step(batch);
  const Logits& logits = result.logits;
  ASSERT_EQ(logits.size(), 9u * family_.vocab);
  const Logits first = Whole(sequences_[0]);
  const Logits second = Whole(sequences_[1]);
  const Logits third = Whole(sequences_[2]);
  EXPECT_TRUE(SameBits(RowsOf(logits, 0, 1), RowsOf(first, 3, 1)));
  EXPECT_TRUE(SameBits(RowsOf(logits, 3, 1), RowsOf(first, 6, 1)));
  EXPECT_TRUE(SameBits(RowsOf(logits, 4, 1), RowsOf(second, 6, 1)));
  EXPECT_TRUE(SameBits(RowsOf(logits, 5, 1), RowsOf(third, 3, 1)));
  EXPECT_TRUE(SameBits(RowsOf(logits, 8, 1), RowsOf(third, 6, 1)));
}

// --- Into another slot.

TEST_P(ModelEquivalence, HoldsForStepsThatLeaveTheStateBeforeThemAlone) {
  const auto all = absl::MakeConstSpan(sequences_[0]);
  const Logits whole = Whole(sequences_[0]);
  for (size_t size : {1, 5, 40}) {
    int before = states().Take(), after = states().TryTake(kLength);
    Logits logits;
    for (size_t first = 0; first < all.size(); first += size) {
      const std::string saved = Saved(before);
      BatchRow row =
          RowWith(LogitsWanted::kAll, before, all.subspan(first, size));
      row.slot_out = after;
      // What is thrown away is done again.
      const Logits other = Feed(row);
      EXPECT_TRUE(Saved(before) == saved) << "at " << first;
      const Logits piece = Feed(row);
      EXPECT_TRUE(SameBits(piece, other)) << "at " << first;
      logits.insert(logits.end(), piece.begin(), piece.end());
      std::swap(before, after);
    }
    EXPECT_TRUE(SameBits(logits, whole)) << "pieces of " << size;
    states().Free(before);
    states().Free(after);
  }
}

TEST_P(ModelEquivalence, HoldsForSequencesThatPartInOneStep) {
  // Both begin with the first 37 tokens of one.
  Tokens tokens[2] = {sequences_[0], sequences_[0]};
  std::copy(sequences_[1].begin() + 37, sequences_[1].end(),
            tokens[1].begin() + 37);
  const int source = states().Take();
  Feed(source, absl::MakeConstSpan(tokens[0]).subspan(0, 37),
       LogitsWanted::kNone);
  Batch batch;
  for (int i = 0; i < 2; ++i) {
    batch.rows.push_back(RowWith(LogitsWanted::kAll, source,
                                 absl::MakeConstSpan(tokens[i]).subspan(37),
                                 /*before=*/true));
    batch.rows.back().slot_out = states().TryTake(kLength, source);
  }
  const Logits together = Step(batch).logits;
  const size_t rows = kLength - 36;
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(SameBits(RowsOf(together, i * rows, rows),
                         RowsOf(Whole(tokens[i]), 36, rows)));
  }
}

// Does again what it was made to do the first time, as a device would.
class RecordingBackend final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  size_t keys() const { return recordings_.size(); }

 private:
  using Recording = std::vector<std::function<void()>>;

  void Issue(const std::function<void()>& operation) override {
    if (recording_ != nullptr) recording_->push_back(operation);
    operation();
  }
  void DoReplay(uint64_t key, absl::FunctionRef<void()> record) override {
    const auto [recorded, is_new] = recordings_.try_emplace(key);
    if (is_new) {
      recording_ = &recorded->second;
      record();
      recording_ = nullptr;
    } else {
      for (const auto& operation : recorded->second) operation();
    }
  }

  std::map<uint64_t, Recording> recordings_;
  Recording* recording_ = nullptr;
};

TEST_P(ModelEquivalence, HoldsForDecodingThatIsReplayed) {
  std::vector<Logits> expected;
  for (int i = 0; i < 4; ++i) expected.push_back(Whole(sequences_[i]));
  RecordingBackend recording(backend_.get());
  ModelLimits limits;
  limits.slots = 5;
  limits.max_batch_tokens = kLength;
  limits.max_logits_rows = 4;
  limits.weight_format = family_.weights;
  model_ = std::move(*LoadModel(folder_.path(), &recording, limits, 0));
  // Sequence i has a slot, and begins with a prompt of 1 + i tokens.
  int slots[4], fed[4];
  for (int i : {2, 0, 3, 1}) {
    slots[i] = states().Take();
    fed[i] = 1 + i;
    Feed(slots[i], absl::MakeConstSpan(sequences_[i]).subspan(0, fed[i]),
         LogitsWanted::kNone);
  }
  const size_t prompts = recording.keys();
  for (int step = 0; step < 40; ++step) {
    Batch batch;
    std::vector<int> in_step;
    for (int i = 0; i < 4; ++i) {
      if ((step + i) % 5 < 2 && step % 3 != 0) continue;
      in_step.push_back(i);
      batch.rows.push_back(
          RowWith(LogitsWanted::kLast, slots[i],
                  absl::MakeConstSpan(sequences_[i]).subspan(fed[i], 1)));
    }
    const Logits logits = Step(batch).logits;
    for (size_t row = 0; row < in_step.size(); ++row) {
      const int i = in_step[row];
      EXPECT_TRUE(
          SameBits(RowsOf(logits, row, 1), RowsOf(expected[i], fed[i], 1)))
          << "step " << step << ", sequence " << i;
      ++fed[i];
    }
  }
  EXPECT_GE(recording.keys(), 2u);
  EXPECT_LE(recording.keys(), prompts + 4);
}

// --- Steps that are begun before the one before them is finished.

// A sequence that draws its tokens, and where it ends.
struct Drawing {
  absl::Span<const int32_t> prompt;
  SamplingParameters parameters;
  Tokens stop_ids;
  int most = 0;  // tokens drawn
  bool in_place = true;
  int slot = -1;
  int other_slot = -1;  // it goes to and fro, unless in place

  Tokens drawn;
  TokenSet seen = TokenSet(1 << 10);
  std::map<int32_t, int32_t> generated;
  bool over = false;

  // The row that draws the next token: from the prompt, or from what was drawn
  // last, or, `ahead` of that, from what is being drawn.
  BatchRow Row(bool ahead) {
    BatchRow row;
    row.slot = slot;
    row.tokens = ahead           ? absl::Span<const int32_t>()
                 : drawn.empty() ? prompt
                                 : absl::MakeConstSpan(drawn).last(1);
    row.follows = ahead;
    row.wanted = Wanted::kToken;
    row.draw.parameters = &parameters;
    row.draw.index = prompt.size() + drawn.size() + (ahead ? 1 : 0);
    row.draw.seen = &seen;
    row.draw.generated = &generated;
    row.draw.stop_ids = stop_ids;
    row.draw.is_last = static_cast<int>(drawn.size()) + (ahead ? 2 : 1) == most;
    if (!in_place) {
      row.slot_out = other_slot;
      std::swap(slot, other_slot);
    }
    return row;
  }
  void Take(const RowOutcome& outcome) {
    ASSERT_TRUE(outcome.finite);
    if (over) {
      EXPECT_TRUE(outcome.outcomes.empty()) << "drawn after its stop";
      return;
    }
    ASSERT_EQ(outcome.outcomes.size(), 1);
    drawn.push_back(outcome.outcomes[0].token);
    seen.Insert(drawn.back());
    ++generated[drawn.back()];
    over = outcome.outcomes[0].stops;
  }
};

TEST_P(ModelEquivalence, HoldsForStepsThatRunAheadOfStops) {
  std::vector<Drawing> expected;
  for (int i = 0; i < 8; ++i) {
    Drawing drawing;
    drawing.prompt = absl::MakeConstSpan(sequences_[i]).first(1 + 9 * (i % 4));
    drawing.parameters.temperature = 0.9f;
    drawing.parameters.repetition_penalty = 1.3f;
    drawing.parameters.presence_penalty = 0.5f;
    drawing.parameters.frequency_penalty = 0.25f;
    drawing.parameters.seed = static_cast<uint64_t>(i);
    drawing.most = 20 + 2 * i;
    drawing.in_place = i % 2 == 0;
    // Some end before they have drawn the most.
    if (i >= 4) drawing.stop_ids = {1, 2, 3, 4, 5};
    drawing.slot = states().TryTake(kLength);
    ENGRAM_CHECK_OK(states().Clear(drawing.slot));
    expected.push_back(drawing);
  }
  std::vector<Drawing> ahead = expected;
  for (Drawing& drawing : ahead) {
    drawing.slot = states().TryTake(kLength);
    ENGRAM_CHECK_OK(states().Clear(drawing.slot));
    if (!drawing.in_place) drawing.other_slot = states().TryTake(kLength);
  }

  for (Drawing& drawing : expected) {
    drawing.in_place = true;
    while (!drawing.over) {
      Batch batch;
      batch.rows.push_back(drawing.Row(/*ahead=*/false));
      ENGRAM_CHECK_OK(model_->Begin(batch));
      drawing.Take(model_->Finish()->rows[0]);
    }
  }

  // The last step begun, and who is in it.
  std::vector<Drawing*> rows;
  Batch batch;
  for (Drawing& drawing : ahead) {
    rows.push_back(&drawing);
    batch.rows.push_back(drawing.Row(/*ahead=*/false));
  }
  ENGRAM_CHECK_OK(model_->Begin(batch));
  while (!rows.empty()) {
    batch.rows.clear();
    std::vector<Drawing*> next;
    for (Drawing* drawing : rows) {
      // Those that turn out to stop in the step that is not finished go on.
      if (drawing->over) continue;
      next.push_back(drawing);
      batch.rows.push_back(drawing->Row(/*ahead=*/true));
    }
    if (!next.empty()) ENGRAM_CHECK_OK(model_->Begin(batch));
    const absl::StatusOr<StepResult> result = model_->Finish();
    for (size_t i = 0; i < rows.size(); ++i) rows[i]->Take(result->rows[i]);
    rows = next;
  }

  for (size_t i = 0; i < ahead.size(); ++i) {
    EXPECT_EQ(ahead[i].drawn, expected[i].drawn) << "sequence " << i;
    EXPECT_EQ(states().tokens(ahead[i].slot), states().tokens(expected[i].slot))
        << "sequence " << i;
    EXPECT_EQ(Saved(ahead[i].slot), Saved(expected[i].slot))
        << "sequence " << i;
  }
}

TEST_P(ModelEquivalence, UnknownIdsHaveLogitsOfMinusInfinity) {
  const Tokens& tokens = sequences_[6];
  const Logits whole = Whole(tokens);
  constexpr int kKnown = 37;
  model_ = Load(kKnown);
  const Logits masked = Whole(tokens);
  ASSERT_EQ(masked.size(), whole.size());
  for (size_t i = 0; i < masked.size(); ++i) {
    const bool known = static_cast<int>(i % family_.vocab) < kKnown;
    EXPECT_EQ(masked[i],
              known ? whole[i] : -std::numeric_limits<float>::infinity());
  }
}

TEST_P(ModelEquivalence, ABrokenStateMarksItsOwnRowOnly) {
  const std::string fresh(states().state_bytes(), '\0');
  // Each float of the state in turn, without those of last_hidden.
  std::vector<size_t> floats;
  for (int i = 0; i + 1 < static_cast<int>(states().components().size()); ++i) {
    const StateComponent& component = states().components()[i];
    const size_t first = states().Layer(i, 0).data - states().Layer(0, 0).data;
    for (int64_t j = 0; j < component.layers * component.floats(); ++j) {
      floats.push_back(first + j);
    }
  }
  const Logits whole = Whole(sequences_[7]);
  const int slots[3] = {states().Take(), states().Take(), states().Take()};
  for (float broken : {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity()}) {
    for (size_t i : floats) {
      std::string block = fresh;
      std::memcpy(&block[i * sizeof(float)], &broken, sizeof(broken));
      Batch batch;
      for (int row = 0; row < 3; ++row) {
        ENGRAM_CHECK_OK(states().Restore(
            slots[row], row == 1 ? block.data() : fresh.data(), 0));
        batch.rows.push_back(
            RowWith(LogitsWanted::kLast, slots[row], sequences_[7]));
      }
      const StepLogits result = Step(batch);
      EXPECT_EQ(result.finite, (std::vector<bool>{true, false, true}))
          << "float " << i << " is " << broken;
      const Logits& logits = result.logits;
      for (int row : {0, 2}) {
        EXPECT_TRUE(
            SameBits(RowsOf(logits, row, 1), RowsOf(whole, kLength - 1, 1)));
      }
    }
  }
}

TEST_P(ModelEquivalence, ABrokenLastHiddenMarksARowThatWantsLogitsBefore) {
  const int slot = states().Take();
  std::string block(states().state_bytes(), '\0');
  const float broken = std::numeric_limits<float>::quiet_NaN();
  const int last = static_cast<int>(states().components().size()) - 1;
  const size_t last_hidden =
      states().Layer(last, 0).data - states().Layer(0, 0).data;
  std::memcpy(
      &block[(last_hidden + family_.d_model) * sizeof(float) - sizeof(broken)],
      &broken, sizeof(broken));
  for (bool before : {true, false}) {
    ENGRAM_CHECK_OK(states().Restore(slot, block.data(), 0));
    const StepLogits result =
        Step(Batch{{RowWith(LogitsWanted::kAll, slot, sequences_[8], before)}});
    EXPECT_EQ(result.finite[0], !before);
  }
}

// Outcomes are those of the logits, row by row, and of ids that are known only.
TEST_P(ModelEquivalence, OutcomesAreOfTheLogitsThatRowsAskFor) {
  constexpr int kKnown = 31;
  model_ = Load(kKnown);
  const SamplingParameters parameters = {.temperature = 0.8f, .seed = 5};
  const auto tokens = absl::MakeConstSpan(sequences_[11]).first(8);
  const Tokens scored = {3, 30, 1};
  Batch batch;
  batch.rows.push_back(RowWith(LogitsWanted::kNone, states().Take(), tokens));
  batch.rows.push_back(RowWith(LogitsWanted::kLast, states().Take(), tokens));
  batch.rows.back().draw = {.parameters = &parameters, .index = 8};
  batch.rows.back().alternatives = 2;
  batch.rows.push_back(RowWith(LogitsWanted::kAll, states().Take(), tokens));
  batch.rows.back().scored = scored;
  ENGRAM_CHECK_OK(model_->Begin(batch));
  const StepResult result = model_->Finish().value();
  const Logits logits = model_->LogitsForTest();
  const auto expect = [&](const Outcome& outcome, size_t row,
                          const OutcomeRequest& request) {
    const Outcome plain =
        PlainOutcome(RowsOf(logits, row, 1).first(kKnown), request);
    EXPECT_EQ(outcome.token, plain.token);
    EXPECT_NEAR(outcome.log_probability, plain.log_probability, 1e-6);
    EXPECT_EQ(outcome.top.size(), plain.top.size());
  };
  ASSERT_EQ(result.rows.size(), 3u);
  EXPECT_TRUE(result.rows[0].outcomes.empty());
  ASSERT_EQ(result.rows[1].outcomes.size(), 1u);
  OutcomeRequest request;
  request.draw = batch.rows[1].draw;
  request.alternatives = 2;
  expect(result.rows[1].outcomes[0], 0, request);
  ASSERT_EQ(result.rows[2].outcomes.size(), scored.size());
  for (size_t i = 0; i < scored.size(); ++i) {
    request = {};
    request.scored = scored[i];
    expect(result.rows[2].outcomes[i], 1 + i, request);
  }
}

TEST_P(ModelEquivalence, AnEmptyBatchIsNoWork) {
  const StepLogits result = Step(Batch{});
  EXPECT_TRUE(result.logits.empty());
  EXPECT_TRUE(result.finite.empty());
}

INSTANTIATE_TEST_SUITE_P(Families, ModelEquivalence,
                         testing::ValuesIn(kFamilies),
                         [](const auto& info) { return info.param.name; });

using ModelLimitsDeathTest = ModelEquivalence;

TEST_P(ModelLimitsDeathTest, StopsAtABatchThatBreaksTheContract) {
  // The back end has threads, which a plain fork would lose.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const int slot = states().Take();
  const Tokens& tokens = sequences_[0];
  const Tokens unknown = {static_cast<int32_t>(family_.vocab)};
  const Tokens negative = {-1};
  const Tokens long_tokens(kSequences * kLength + 1, 0);
  const auto step = [this](Batch batch) { (void)model_->Begin(batch); };
  EXPECT_DEATH(step({{{slot, unknown}}}), "broken invariant");
  EXPECT_DEATH(step({{{slot, negative}}}), "broken invariant");
  EXPECT_DEATH(step({{{slot, {}}}}), "broken invariant");
  EXPECT_DEATH(step({{{slot, tokens}, {slot, tokens}}}), "broken invariant");
  EXPECT_DEATH(step({{{slot + 1, tokens}}}), "broken invariant");
  EXPECT_DEATH(step({{{-1, tokens}}}), "broken invariant");
  EXPECT_DEATH(step({{{slot, long_tokens}}}), "broken invariant");
  BatchRow row = RowWith(LogitsWanted::kAll, slot, tokens);
  row.tokens.remove_suffix(1);
  EXPECT_DEATH(step({{row}}), "broken invariant");
  row = RowWith(LogitsWanted::kLast, slot, tokens);
  row.draw = {};
  EXPECT_DEATH(step({{row}}), "broken invariant");
  EXPECT_DEATH((void)model_->Finish(), "broken invariant");
}

INSTANTIATE_TEST_SUITE_P(Families, ModelLimitsDeathTest,
                         testing::ValuesIn(kFamilies),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace engram
