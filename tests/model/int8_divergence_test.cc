// What int8 weights cost the trained models of the zoo: the distributions of
// tokens differ little from those by the weights as they are stored.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "model/load_model.h"
#include "tests/model/golden_model.h"
#include "tests/model/step.h"
#include "tests/support/folders.h"

namespace engram {
namespace {

// Some ids, or the beginning of what the English model was trained for.
std::vector<int32_t> Tokens(const std::string& name, const LoadedModel& loaded,
                            size_t count) {
  std::vector<int32_t> ids(count);
  if (name == "mamba-english") {
    const auto encoded = loaded.tokenizer->Encode(
        "In the beginning God created the heaven and the earth. And the earth "
        "was without form, and void; and darkness was upon the face of the "
        "deep. And the Spirit of God moved upon the face of the waters.",
        /*parse_special_tokens=*/false, {});
    ENGRAM_CHECK_OK(encoded.status());
    ids = *encoded;
    ids.resize(std::min(count, ids.size()));
    return ids;
  }
  std::mt19937 random(1);
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random() % loaded.model->info().vocabulary_size);
  }
  return ids;
}

struct Answers {
  std::vector<float> logits;
  std::string format;
  size_t tokens = 0;
};

Answers AnswersOf(const std::string& name, std::optional<WeightFormat> format) {
  constexpr size_t kTokens = 20;  // what every model has positions for
  const auto backend = TwoThreadBackend();
  ModelLimits limits;
  limits.slots = 1;
  limits.max_batch_tokens = limits.max_logits_rows = kTokens;
  limits.weight_format = format;
  const auto folder = ModelFolder::Open(SourceFile("model/zoo/" + name));
  ENGRAM_CHECK_OK(folder.status());
  const auto loaded = (*folder)->Load(backend.get(), limits);
  ENGRAM_CHECK_OK(loaded.status());
  Model& model = *loaded->model;
  const std::vector<int32_t> tokens = Tokens(name, *loaded, kTokens);
  Batch batch;
  batch.rows.push_back(
      RowWith(LogitsWanted::kAll, model.states().Take(), tokens));
  const auto step = RunStep(&model, batch);
  ENGRAM_CHECK_OK(step.status());
  return {step->logits, model.info().weight_format, tokens.size()};
}

class Int8Divergence : public ::testing::TestWithParam<std::string> {};

TEST_P(Int8Divergence, OfATrainedModelIsSmall) {
  const Answers exact = AnswersOf(GetParam(), std::nullopt);
  const Answers rounded = AnswersOf(GetParam(), WeightFormat::kInt8);
  EXPECT_EQ(exact.format, "f32");
  EXPECT_THAT(rounded.format, testing::HasSubstr("int8"));
  const double divergence =
      MeanDivergence(exact.logits, rounded.logits, exact.tokens);
  EXPECT_LE(divergence, 2e-3);
  EXPECT_GT(divergence, 0);
  testing::Test::RecordProperty("divergence", std::to_string(divergence * 1e6));
}

std::string TestName(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Small, Int8Divergence,
                         testing::Values("mamba-induction", "mamba-recall",
                                         "mamba2-induction", "h3-induction",
                                         "h3-recall", "attention-induction",
                                         "s4d-recall"),
                         TestName);
INSTANTIATE_TEST_SUITE_P(English, Int8Divergence,
                         testing::Values("mamba-english"), TestName);

}  // namespace
}  // namespace engram
