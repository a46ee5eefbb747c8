// What a look into a state finds, compared with an independent computation: the
// files inspection.safetensors of tests/golden were written by
// tools/golden/make_inspection_golden.py. And that a look changes nothing.
#include "model/inspection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
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

// inspection.safetensors of a golden folder.
std::map<std::string, std::vector<float>> ReadGolden(
    const std::string& folder) {
  TemporaryFolder copy;
  std::filesystem::copy(folder + "/inspection.safetensors",
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
