// What a look into a state finds, compared with an independent computation: the
// files inspection.safetensors of tests/golden were written by
// tools/golden/make_inspection_golden.py, ablation.safetensors by
// tools/golden/make_ablation_golden.py. And that a look changes nothing.
#include "model/inspection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/status.h"
#include "model/checkpoint.h"
#include "model/load_model.h"
#include "tests/model/golden_model.h"
#include "tests/model/step.h"
#include "tests/support/folders.h"
#include "tests/support/temporary_folder.h"

namespace engram {
namespace {

using testing::ElementsAre;
using testing::Not;

constexpr char kSmall[] = "tests/golden/mamba/odd";

// A file of a golden folder.
std::map<std::string, std::vector<float>> ReadGolden(
    const std::string& folder, const char* file = "inspection.safetensors") {
  TemporaryFolder copy;
  std::filesystem::copy(absl::StrCat(folder, "/", file),
                        copy.path() + "/model.safetensors");
  const auto checkpoint = Checkpoint::Open(copy.path());
  ENGRAM_CHECK_OK(checkpoint.status());
  std::map<std::string, std::vector<float>> golden;
  for (const std::string& name : (*checkpoint)->Names()) {
    golden[name] = WidenToFloat32((*checkpoint)->Get(name).value());
  }
  return golden;
}

std::vector<int32_t> Ids(const std::vector<float>& values) {
  return std::vector<int32_t>(values.begin(), values.end());
}

std::vector<double> LogProbabilities(const float* logits, size_t ids) {
  const double largest = *std::max_element(logits, logits + ids);
  double sum = 0;
  for (size_t i = 0; i < ids; ++i) sum += std::exp(logits[i] - largest);
  std::vector<double> all;
  for (size_t i = 0; i < ids; ++i) {
    all.push_back(logits[i] - largest - std::log(sum));
  }
  return all;
}

// One model, and states that it was saved in.
class ModelUnderLook {
 public:
  explicit ModelUnderLook(const std::string& folder,
                          std::optional<WeightFormat> format = std::nullopt)
      : backend_(TwoThreadBackend()) {
    ModelLimits limits;
    limits.slots = 2;
    limits.max_logits_rows = 200;
    limits.weight_format = format;
    auto model = LoadModel(SourceFile(folder), backend_.get(), limits, 0);
    ENGRAM_CHECK_OK(model.status());
    model_ = std::move(*model);
  }

  Model* operator->() { return model_.get(); }
  Model* get() { return model_.get(); }

  // Feeds the tokens to a slot and returns the logits after the last.
  std::vector<float> Feed(int slot, const std::vector<int32_t>& tokens) {
    Batch batch;
    batch.rows.push_back(RowWith(LogitsWanted::kLast, slot, tokens));
    const auto result = RunStep(model_.get(), batch);
    ENGRAM_CHECK_OK(result.status());
    return result->logits;
  }
  std::vector<char> Save(int slot) {
    std::vector<char> block(model_->states().bytes(slot));
    ENGRAM_CHECK_OK(model_->states().Save(slot, block.data()));
    return block;
  }
  // The state after these tokens.
  std::vector<char> StateAfter(const std::vector<int32_t>& tokens) {
    const int slot = model_->states().Take();
    Feed(slot, tokens);
    std::vector<char> block = Save(slot);
    model_->states().Free(slot);
    return block;
  }

  InspectionAnswer Look(InspectionQuestion question) {
    const auto inspection = model_->Inspect(std::move(question));
    ENGRAM_CHECK_OK(inspection.status());
    while (true) {
      const absl::StatusOr<bool> done = (*inspection)->Advance();
      ENGRAM_CHECK_OK(done.status());
      if (*done) return (*inspection)->TakeAnswer();
    }
  }

 private:
  const std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
};

void ExpectAnswer(const std::vector<LogProbability>& answer,
                  const float* logits, size_t ids) {
  const std::vector<double> expected = LogProbabilities(logits, ids);
  ASSERT_EQ(answer.size(), ids);
  for (size_t i = 0; i < ids; ++i) {
    EXPECT_NEAR(answer[i].value, expected[answer[i].id], 1e-3)
        << "id " << answer[i].id;
    if (i > 0) {
      EXPECT_GE(answer[i - 1].value, answer[i].value);
    }
  }
}

class GoldenInspection : public testing::TestWithParam<const char*> {
 protected:
  GoldenInspection()
      : folder_(absl::StrCat("tests/golden/", GetParam())),
        golden_(ReadGolden(SourceFile(folder_))),
        model_(folder_) {
    const auto position = static_cast<size_t>(golden_["position"][0]);
    std::vector<int32_t> fed = ReadExpectedLogits(SourceFile(folder_)).tokens;
    fed.resize(position);
    state_ = model_.StateAfter(fed);
    question_.state = state_.data();
    question_.position = static_cast<int64_t>(position);
    question_.tokens = Ids(golden_["tokens"]);
    question_.queries = Ids(golden_["queries"]);
  }

  size_t ids() const { return golden_.at("logits").size() / queries(); }
  size_t queries() const { return golden_.at("queries").size(); }
  int32_t LikeliestAfter(const std::vector<int32_t>& text) {
    const int slot = model_.get()->states().Take();
    const std::vector<float> logits = model_.Feed(slot, text);
    model_.get()->states().Free(slot);
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) -
                                logits.begin());
  }

  const std::string folder_;
  std::map<std::string, std::vector<float>> golden_;
  ModelUnderLook model_;
  std::vector<char> state_;
  InspectionQuestion question_;
};

TEST_P(GoldenInspection, EachStateAnswersAsItsShareOfThePapersFormulas) {
  question_.alternatives = static_cast<int32_t>(ids());
  const InspectionAnswer answer = model_.Look(question_);
  ASSERT_EQ(answer.queries.size(), queries());
  size_t shares = 0;
  for (const auto& [name, values] : golden_) {
    shares += name.rfind("share.", 0) == 0 ? 1 : 0;
  }
  for (size_t query = 0; query < queries(); ++query) {
    SCOPED_TRACE(absl::StrCat("query ", query));
    const QueryAnswer& own = answer.queries[query];
    EXPECT_EQ(own.id, question_.queries[query]);
    ExpectAnswer(own.top, &golden_["logits"][query * ids()], ids());
    EXPECT_EQ(own.layers.size(), shares);
    for (const LayerAnswer& layer : own.layers) {
      const std::string name =
          absl::StrCat("share.", layer.layer, ".", layer.state);
      SCOPED_TRACE(name);
      ASSERT_EQ(golden_.count(name), 1u);
      ExpectAnswer(layer.top, &golden_[name][query * ids()], ids());
    }
  }
}

TEST_P(GoldenInspection, StatesAreDescribedAsTheyAre) {
  question_.describe = true;
  const InspectionAnswer answer = model_.Look(question_);
  EXPECT_TRUE(answer.queries.empty());
  size_t described = 0;
  for (const auto& [name, values] : golden_) {
    described += name.rfind("values.", 0) == 0 ? 1 : 0;
  }
  EXPECT_EQ(answer.states.size(), described);
  for (const StateSummary& summary : answer.states) {
    const std::string name =
        absl::StrCat("values.", summary.layer, ".", summary.state);
    SCOPED_TRACE(name);
    ASSERT_EQ(golden_.count(name), 1u);
    const std::vector<float>& values = golden_[name];
    EXPECT_NEAR(summary.norm, values[0], 1e-4 * values[0]);
    EXPECT_NEAR(summary.median, values[1], 1e-4 * values[0]);
    EXPECT_NEAR(summary.share_above, values[2], 1e-6);
    EXPECT_GT(summary.largest, summary.median);
    EXPECT_GT(summary.values, 0);
    if (summary.window_tokens > 0) continue;
    const std::vector<float>& fading =
        golden_[absl::StrCat("fading.", summary.layer)];
    ASSERT_EQ(fading.size(), 4u);
    EXPECT_EQ(answer.fading_token, question_.queries[0]);
    EXPECT_NEAR(summary.fading.tenth, fading[0], 1e-3 * fading[0]);
    EXPECT_NEAR(summary.fading.median, fading[1], 1e-3 * fading[1]);
    EXPECT_NEAR(summary.fading.nine_tenths, fading[2], 1e-3 * fading[2]);
    EXPECT_NEAR(summary.fading.longest, fading[3], 1e-3 * fading[3]);
  }
}

TEST_P(GoldenInspection, WhatWasFedAndWhatIsFedOnACopyMakeNoDifference) {
  question_.alternatives = static_cast<int32_t>(ids());
  std::vector<int32_t> all = ReadExpectedLogits(SourceFile(folder_)).tokens;
  question_.tokens = std::move(all);
  question_.state = nullptr;
  question_.position = 0;
  question_.queries.resize(1);
  const InspectionAnswer answer = model_.Look(question_);
  ExpectAnswer(answer.queries[0].top, &golden_["logits"][0], ids());
}

// What is told of one state, in the order of the golden file.
std::vector<float> InOrder(const LayerAttribution& layer) {
  std::vector<float> all = {layer.before};
  all.insert(all.end(), layer.contributions.begin(), layer.contributions.end());
  all.insert(all.end(), {layer.local, layer.bias, layer.direct});
  return all;
}

// All together are what the layer adds, to 1e-4 of what adds and takes.
void ExpectSum(const LayerAttribution& layer) {
  double sum = layer.before + layer.local + layer.bias;
  double all =
      std::abs(layer.before) + std::abs(layer.local) + std::abs(layer.bias);
  for (const float share : layer.contributions) {
    sum += share;
    all += std::abs(share);
  }
  EXPECT_NEAR(sum, layer.direct, 1e-4 * all);
}

TEST_P(GoldenInspection, EachPositionAddsItsPartOfThePapersSums) {
  question_.tokens.push_back(question_.queries[0]);
  question_.queries.clear();
  const int32_t target = Ids(golden_["target"])[0];
  const std::vector<int32_t> against = Ids(golden_["against"]);
  size_t states = 0;
  for (const auto& [name, values] : golden_) {
    states += name.rfind("attribution.", 0) == 0 ? 1 : 0;
  }
  for (const bool through : {false, true}) {
    question_.attribution = {target, against, through};
    const Attribution found = *model_.Look(question_).attribution;
    EXPECT_EQ(found.tokens, question_.tokens);
    EXPECT_EQ(found.target, target);
    EXPECT_NEAR(found.logit, golden_["logits"][target], 1e-3);
    float mean = 0;
    for (const int32_t id : against) mean += golden_["logits"][id];
    EXPECT_NEAR(found.against, mean / static_cast<float>(against.size()), 1e-3);
    EXPECT_EQ(found.layers.size(), states);
    for (const LayerAttribution& layer : found.layers) {
      const std::string name =
          absl::StrCat("attribution.", layer.layer, ".", layer.state);
      SCOPED_TRACE(absl::StrCat(name, through ? " through" : ""));
      const std::vector<float> told = InOrder(layer);
      ASSERT_EQ(golden_[name].size(), 2 * told.size());
      const float* const expected = &golden_[name][through ? told.size() : 0];
      for (size_t i = 0; i < told.size(); ++i) {
        EXPECT_NEAR(told[i], expected[i], 1e-3) << "place " << i;
      }
    }
  }
}

// However the text is cut into what was fed before and what is attributed.
TEST_P(GoldenInspection, WhatPositionsAddIsAllThatTheLayerAdds) {
  std::vector<int32_t> text = ReadExpectedLogits(SourceFile(folder_)).tokens;
  text.push_back(question_.queries[0]);
  for (const size_t before : {size_t{0}, size_t{1}, text.size() - 1}) {
    std::vector<char> state;
    InspectionQuestion question;
    if (before > 0) {
      state = model_.StateAfter(
          std::vector<int32_t>(text.begin(), text.begin() + before));
      question.state = state.data();
    }
    question.position = static_cast<int64_t>(before);
    question.tokens.assign(text.begin() + before, text.end());
    for (const bool through : {false, true}) {
      question.attribution = {std::nullopt, {}, through};
      const Attribution found = *model_.Look(question).attribution;
      EXPECT_EQ(found.target, LikeliestAfter(text));
      for (const LayerAttribution& layer : found.layers) {
        SCOPED_TRACE(absl::StrCat("after ", before, " layer ", layer.layer, " ",
                                  layer.state));
        ASSERT_EQ(layer.contributions.size(), text.size() - 1 - before);
        ExpectSum(layer);
        if (!through) {
          EXPECT_EQ(layer.bias, 0);
        }
        if (before == 0) {
          EXPECT_EQ(layer.before, 0);
        }
      }
    }
  }
}

// A row of edits.CASE.
LayerEdit ReadEdit(const float* row, size_t width) {
  LayerEdit edit;
  edit.kind = static_cast<LayerEdit::Kind>(row[0]);
  edit.layer = static_cast<int64_t>(row[1]);
  edit.tap = edit.position = static_cast<int64_t>(row[2]);
  edit.keeps_before = row[2] == 1;
  edit.token = static_cast<int32_t>(row[3]);
  for (size_t i = 3; i < width && row[i] >= 0; ++i) {
    edit.positions.push_back(static_cast<int64_t>(row[i]));
  }
  return edit;
}

TEST_P(GoldenInspection, EachEditChangesTheAnswerAsThePapersSumsDo) {
  auto golden = ReadGolden(SourceFile(folder_), "ablation.safetensors");
  ASSERT_EQ(Ids(golden["tokens"]), question_.tokens);
  question_.queries.clear();
  AblationQuestion asked;
  asked.alternatives = static_cast<int32_t>(ids());
  asked.sampling.logit_bias = {{Ids(golden["forced"])[0], 100}};
  size_t number = 0;
  for (; golden.contains(absl::StrCat("edits.", number)); ++number) {
    SCOPED_TRACE(absl::StrCat("case ", number));
    const std::vector<float>& rows = golden[absl::StrCat("edits.", number)];
    const std::vector<float>& logits = golden[absl::StrCat("logits.", number)];
    const size_t width = golden[absl::StrCat("width.", number)][0];
    asked.edits.clear();
    for (size_t at = 0; at < rows.size(); at += width) {
      asked.edits.push_back(ReadEdit(&rows[at], width));
    }
    asked.max_tokens = static_cast<int64_t>(logits.size() / ids());
    question_.ablation = asked;
    const Ablation found = *model_.Look(question_).ablation;
    EXPECT_EQ(found.tokens, question_.tokens);
    ASSERT_EQ(found.edited.size(), asked.max_tokens);
    ASSERT_EQ(found.untouched.size(), asked.max_tokens);
    for (int64_t i = 0; i < asked.max_tokens; ++i) {
      ExpectAnswer(found.edited[i].top, &logits[i * ids()], ids());
    }
    const std::vector<float> expected =
        ReadExpectedLogits(SourceFile(folder_)).logits;
    ExpectAnswer(found.untouched[0].top, &*(expected.end() - ids()), ids());
  }
  EXPECT_GE(number, 8u);
}

// What is taken away and put back leaves nothing behind: the sums are the same,
// to the bit.
TEST_P(GoldenInspection, WhatIsAblatedAndRestoredIsUntouchedToTheBit) {
  question_.queries.clear();
  AblationQuestion asked;
  asked.max_tokens = 3;
  asked.alternatives = static_cast<int32_t>(ids());
  const auto count = static_cast<int64_t>(question_.tokens.size());
  for (int64_t layer = 0; layer < model_->info().layers; ++layer) {
    for (int64_t position = 0; position < count; ++position) {
      LayerEdit edit;
      edit.kind = LayerEdit::Kind::kReplaceWrite;
      edit.layer = layer;
      edit.position = position;
      edit.token = question_.tokens[position];
      asked.edits.push_back(edit);
    }
    LayerEdit all;
    all.kind = LayerEdit::Kind::kKeepOnly;
    all.layer = layer;
    all.positions.resize(count);
    std::iota(all.positions.begin(), all.positions.end(), 0);
    all.keeps_before = true;
    asked.edits.push_back(all);
  }
  question_.ablation = asked;
  const std::vector<char> before = state_;
  const Ablation found = *model_.Look(question_).ablation;
  ASSERT_EQ(found.edited.size(), 3u);
  ASSERT_EQ(found.untouched.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(found.edited[i].id, found.untouched[i].id);
    ASSERT_EQ(found.edited[i].top.size(), ids());
    for (size_t j = 0; j < ids(); ++j) {
      EXPECT_EQ(found.edited[i].top[j].id, found.untouched[i].top[j].id);
      EXPECT_EQ(found.edited[i].top[j].value, found.untouched[i].top[j].value);
    }
  }
  EXPECT_EQ(state_, before);
  // And an answer beside edits is that of a question without any.
  question_.ablation->edits = {LayerEdit{LayerEdit::Kind::kLocalScan}};
  const Ablation edited = *model_.Look(question_).ablation;
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(edited.untouched[i].id, found.untouched[i].id);
    EXPECT_EQ(edited.untouched[i].top[0].value,
              found.untouched[i].top[0].value);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, GoldenInspection,
    testing::Values("mamba/odd", "mamba/usual", "mamba/biased_untied",
                    "mamba/original", "mamba2/odd", "mamba2/two_groups",
                    "mamba2/untied_biased", "mamba2/no_gated_norm",
                    "mamba2/hybrid", "mamba2/hybrid_biased", "h3/plain",
                    "h3/zoh", "h3/hybrid_rotary", "h3/short_filter",
                    "h3/untied_no_mlp", "s4d/plain", "s4d/untied_no_mlp",
                    "attention/learned_positions", "attention/rotary",
                    "attention/plain"),
    [](const auto& test) {
      return absl::StrReplaceAll(test.param, {{"/", "_"}});
    });

// As it is served: the weights are those of the model, in their format.
class InspectedFormat : public testing::TestWithParam<WeightFormat> {};

TEST_P(InspectedFormat, TheWholeAnswerIsTheModelsOwn) {
  ModelUnderLook model(kSmall, GetParam());
  const std::vector<int32_t> text = {3, 1, 4, 1, 5, 9, 2, 6};
  const std::vector<char> state = model.StateAfter(text);
  const auto ids = static_cast<size_t>(model->info().vocabulary_size);
  InspectionQuestion question;
  question.state = state.data();
  question.position = static_cast<int64_t>(text.size());
  question.queries = {5, 3};
  question.alternatives = static_cast<int32_t>(ids);
  const InspectionAnswer answer = model.Look(question);
  for (size_t i = 0; i < 2; ++i) {
    const int slot = model->states().Take();
    model.Feed(slot, text);
    const std::vector<float> logits = model.Feed(slot, {question.queries[i]});
    ExpectAnswer(answer.queries[i].top, logits.data(), ids);
    model->states().Free(slot);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, InspectedFormat,
    testing::Values(WeightFormat::kFloat32, WeightFormat::kBFloat16,
                    WeightFormat::kFloat16, WeightFormat::kInt8),
    [](const auto& test) { return WeightFormatName(test.param); });

TEST_P(InspectedFormat, WhatPositionsAddIsOfTheWeightsThatAreServed) {
  ModelUnderLook model(kSmall, GetParam());
  const std::vector<char> state = model.StateAfter({3, 1, 4, 1, 5});
  InspectionQuestion question;
  question.state = state.data();
  question.position = 5;
  question.tokens = {9, 2, 6, 5, 3, 5};
  question.attribution.emplace();
  const Attribution found = *model.Look(question).attribution;
  for (const LayerAttribution& layer : found.layers) {
    SCOPED_TRACE(layer.layer);
    ExpectSum(layer);
  }
}

// Looks while a stream runs, a part after each of its steps: these and the
// states must be as without it.
InspectionAnswer LookDuringAStream(ModelUnderLook* model,
                                   const std::vector<char>& state,
                                   const InspectionQuestion& question) {
  const std::vector<int32_t> stream = {7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5, 9};
  const std::vector<char> before = state;
  StatePool& states = model->get()->states();
  std::vector<std::vector<float>> alone;
  int slot = states.Take();
  for (const int32_t id : stream) alone.push_back(model->Feed(slot, {id}));
  const std::vector<char> end = model->Save(slot);
  states.Free(slot);

  const auto inspection = model->get()->Inspect(question).value();
  slot = states.Take();
  bool done = false;
  for (size_t i = 0; i < stream.size(); ++i) {
    if (!done) done = inspection->Advance().value();
    EXPECT_EQ(model->Feed(slot, {stream[i]}), alone[i]);
  }
  EXPECT_FALSE(done) << "it had no part for each of the steps";
  while (!done) done = inspection->Advance().value();
  EXPECT_EQ(model->Save(slot), end);
  EXPECT_EQ(state, before);
  return inspection->TakeAnswer();
}

class LookBetweenSteps : public testing::Test {
 protected:
  LookBetweenSteps() {
    question_.state = state_.data();
    question_.position = 8;
  }

  ModelUnderLook model_{"tests/golden/h3/hybrid_rotary"};
  const std::vector<char> state_ = model_.StateAfter({3, 1, 4, 1, 5, 9, 2, 6});
  InspectionQuestion question_;
};

TEST_F(LookBetweenSteps, ReadsOutAsWithoutThem) {
  question_.queries = {1, 2, 3, 4, 5};
  question_.alternatives = 3;
  question_.describe = true;
  const InspectionAnswer undisturbed = model_.Look(question_);
  const InspectionAnswer answer = LookDuringAStream(&model_, state_, question_);
  ASSERT_EQ(answer.queries.size(), undisturbed.queries.size());
  for (size_t i = 0; i < answer.queries.size(); ++i) {
    EXPECT_EQ(answer.queries[i].top[0].value,
              undisturbed.queries[i].top[0].value);
  }
}

TEST_F(LookBetweenSteps, AttributesAsWithoutThem) {
  question_.tokens = {1, 2, 3, 4, 5};
  question_.attribution.emplace();
  const Attribution undisturbed = *model_.Look(question_).attribution;
  const Attribution answer =
      *LookDuringAStream(&model_, state_, question_).attribution;
  ASSERT_EQ(answer.layers.size(), undisturbed.layers.size());
  for (size_t i = 0; i < answer.layers.size(); ++i) {
    EXPECT_EQ(InOrder(answer.layers[i]), InOrder(undisturbed.layers[i]));
  }
}

TEST_F(LookBetweenSteps, AblatesAsWithoutThem) {
  question_.tokens = {1, 2, 3, 4, 5};
  AblationQuestion asked;
  asked.edits = {LayerEdit{LayerEdit::Kind::kLocalScan, 2}};
  asked.alternatives = 1;
  asked.max_tokens = 4;
  question_.ablation = asked;
  const Ablation undisturbed = *model_.Look(question_).ablation;
  const Ablation answer =
      *LookDuringAStream(&model_, state_, question_).ablation;
  ASSERT_EQ(answer.edited.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(answer.edited[i].id, undisturbed.edited[i].id);
    EXPECT_EQ(answer.edited[i].top[0].value,
              undisturbed.edited[i].top[0].value);
    EXPECT_EQ(answer.untouched[i].top[0].value,
              undisturbed.untouched[i].top[0].value);
  }
}

class AblationTest : public testing::Test {
 protected:
  AblationTest() {
    question_.tokens = {3, 1, 4, 1, 5, 9};
    question_.ablation.emplace();
  }

  Ablation Answer() { return *model_.Look(question_).ablation; }
  static std::vector<int32_t> IdsOf(const std::vector<AnsweredToken>& answer) {
    std::vector<int32_t> ids;
    for (const AnsweredToken& token : answer) ids.push_back(token.id);
    return ids;
  }
  // What the model draws by itself.
  std::vector<int32_t> Drawn(size_t count) {
    const int slot = model_->states().Take();
    std::vector<int32_t> text = question_.tokens, drawn;
    while (drawn.size() < count) {
      Batch batch;
      batch.rows.push_back({.slot = slot, .tokens = text});
      BatchRow& row = batch.rows[0];
      row.wanted = Wanted::kToken;
      row.draw.parameters = &question_.ablation->sampling;
      row.draw.index = question_.tokens.size() + drawn.size();
      ENGRAM_CHECK_OK(model_->Begin(batch));
      const auto result = model_->Finish();
      ENGRAM_CHECK_OK(result.status());
      text = {result->rows[0].outcomes[0].token};
      drawn.push_back(text[0]);
    }
    model_->states().Free(slot);
    return drawn;
  }
  void ExpectRefused(const LayerEdit& edit, const std::string& words) {
    question_.ablation->edits = {LayerEdit{LayerEdit::Kind::kLocalScan}, edit};
    const absl::Status refused = model_->Inspect(question_).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(refused.message(), words);
  }

  ModelUnderLook model_{kSmall};
  InspectionQuestion question_;
};

TEST_F(AblationTest, DrawsTheUntouchedAnswerAsTheModelDoes) {
  question_.ablation->max_tokens = 12;
  question_.ablation->sampling.temperature = 1.5f;
  question_.ablation->sampling.seed = 7;
  const Ablation found = Answer();
  EXPECT_EQ(IdsOf(found.untouched), Drawn(12));
  EXPECT_EQ(IdsOf(found.edited), IdsOf(found.untouched));  // there is no edit
}

TEST_F(AblationTest, PenaltiesAreOfWhatWasReadAndSaid) {
  AblationQuestion& asked = *question_.ablation;
  asked.max_tokens = 8;
  TokenSet seen(model_->info().vocabulary_size);
  for (int32_t id = 0; id < 20; ++id) seen.Insert(id);
  asked.seen = &seen;
  asked.sampling.repetition_penalty = 100;
  asked.sampling.frequency_penalty = 100;
  const std::vector<int32_t> answer = IdsOf(Answer().untouched);
  EXPECT_EQ(std::set<int32_t>(answer.begin(), answer.end()).size(), 8u);
}

TEST_F(AblationTest, EndsWhereItIsToldTo) {
  AblationQuestion& asked = *question_.ablation;
  asked.max_tokens = 8;
  const std::vector<int32_t> all = IdsOf(Answer().untouched);
  asked.stop_ids = {all[3]};
  const Ablation found = Answer();
  const auto first = std::find(all.begin(), all.end(), all[3]) - all.begin();
  ASSERT_EQ(found.untouched.size(), first + 1);
  EXPECT_TRUE(found.untouched.back().stops);
  asked.stop_ids.clear();
  int readers = 0;
  asked.reader = [&readers] {
    ++readers;
    return [read = 0](int32_t) mutable { return ++read == 5; };
  };
  const Ablation read = Answer();
  EXPECT_EQ(readers, 2);
  EXPECT_EQ(IdsOf(read.untouched),
            std::vector<int32_t>(all.begin(), all.begin() + 5));
  EXPECT_EQ(read.edited.size(), 5u);
}

TEST_F(AblationTest, RefusesWhatTheModelHasNotByTheEditsPlace) {
  LayerEdit edit;
  edit.layer = 2;
  ExpectRefused(edit, "edits[1]: layer is 2, limit 0 to 1");
  edit.layer = -1;
  ExpectRefused(edit, "edits[1]: layer is -1, limit 0 to 1");
  edit.layer = 1;
  for (const int64_t tap : {-1, 3}) {
    edit.tap = tap;
    ExpectRefused(edit, absl::StrCat("edits[1]: tap is ", tap,
                                     ", limit 0 to 2, of the oldest to the "
                                     "token's own"));
  }
  for (const auto kind :
       {LayerEdit::Kind::kRemoveWrite, LayerEdit::Kind::kReplaceWrite}) {
    edit.kind = kind;
    for (const int64_t position : {int64_t{-1}, int64_t{6}}) {
      edit.position = position;
      ExpectRefused(edit,
                    absl::StrCat("edits[1]: position is ", position,
                                 ", limit 0 to 5, positions of the tokens that "
                                 "are fed"));
    }
  }
  edit.kind = LayerEdit::Kind::kKeepOnly;
  edit.positions = {0, 6};
  ExpectRefused(edit,
                "edits[1]: positions is 6, limit 0 to 5, positions of the "
                "tokens that are fed");
  edit.kind = LayerEdit::Kind::kReplaceWrite;
  edit.position = 3;
  question_.ablation->edits = {edit, edit};
  EXPECT_EQ(model_->Inspect(question_).status().message(),
            "edits[1]: another edit replaces the write of position 3 in layer "
            "1; leave one of them out");
}

TEST(AblationOfFamilies, RefusesATapWhereThereIsNoConvolution) {
  const std::vector<std::pair<std::string, std::string>> models = {
      {"s4d/plain", "s4d"}, {"attention/rotary", "attention"}};
  for (const auto& [folder, mixer] : models) {
    ModelUnderLook model("tests/golden/" + folder);
    InspectionQuestion question;
    question.tokens = {1};
    question.ablation.emplace();
    question.ablation->edits = {LayerEdit{LayerEdit::Kind::kCutTap}};
    EXPECT_EQ(model->Inspect(question).status().message(),
              absl::StrCat("edits[0]: layer 0 is ", mixer,
                           " without a convolution, which has no tap to cut"));
  }
}

TEST(Inspection, TakesTheLikeliestTokenWhereNoneIsAskedFor) {
  ModelUnderLook model(kSmall);
  const std::vector<int32_t> text = {3, 1, 4, 1, 5};
  const std::vector<char> state = model.StateAfter(text);
  const int slot = model->states().Take();
  const std::vector<float> logits = model.Feed(slot, text);
  const auto likeliest = std::max_element(logits.begin(), logits.end());
  InspectionQuestion question;
  question.state = state.data();
  question.position = static_cast<int64_t>(text.size());
  question.describe = true;
  const InspectionAnswer answer = model.Look(question);
  EXPECT_EQ(answer.fading_token, likeliest - logits.begin());
  EXPECT_TRUE(answer.queries.empty());
}

TEST(Inspection, FindsNothingWhereNothingWasFed) {
  ModelUnderLook model(kSmall);
  InspectionQuestion question;
  question.describe = true;
  const InspectionAnswer answer = model.Look(question);
  EXPECT_EQ(answer.fading_token, -1);
  ASSERT_EQ(answer.states.size(), 4u);  // of two layers
  for (const StateSummary& summary : answer.states) {
    EXPECT_EQ(summary.norm, 0);
    EXPECT_EQ(summary.share_above, 0);
    EXPECT_EQ(summary.fading.longest, 0);
    EXPECT_GT(summary.values, 0);
  }
  EXPECT_EQ(answer.states[0].window_tokens, 2);
  EXPECT_EQ(answer.states[1].window_tokens, 0);
}

// What is above ten times the median shows in one layer's state and no other's.
TEST(Inspection, TellsOutliersOfTheStateThatHasThem) {
  ModelUnderLook model(kSmall);
  std::vector<char> state = model.StateAfter({3, 1, 4, 1, 5});
  InspectionQuestion question;
  question.state = state.data();
  question.position = 5;
  question.describe = true;
  const InspectionAnswer before = model.Look(question);
  const StatePool& states = model->states();
  float* const ssm = const_cast<float*>(
      states.SavedLayer(state.data(), /*component=*/1, /*layer=*/1));
  const int64_t values = before.states[3].values;
  for (int64_t i = 0; i < values / 4; ++i) ssm[i] = 1e6f;
  const InspectionAnswer after = model.Look(question);
  EXPECT_NEAR(after.states[3].share_above, 0.25, 0.1);
  EXPECT_EQ(after.states[3].largest, 1e6);
  EXPECT_EQ(after.states[1].share_above, before.states[1].share_above);
  EXPECT_EQ(after.states[1].norm, before.states[1].norm);
}

}  // namespace
}  // namespace engram
