// What formats of fewer bits cost: the distributions of tokens differ little
// from those by the weights as they are stored, for the trained models of the
// zoo and for random ones.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "model/load_model.h"
#include "model/random_model.h"
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

// A folder of the zoo, or a random model of the shape behind the prefix.
absl::StatusOr<std::unique_ptr<ModelFolder>> Open(absl::string_view name) {
  if (!absl::ConsumePrefix(&name, "random-")) {
    return ModelFolder::Open(SourceFile(absl::StrCat("model/zoo/", name)));
  }
  return RandomModel(std::string(name), DataType::kFloat32,
                     {.layers = 3, .d_model = 384, .vocabulary = 512});
}

Answers AnswersOf(const std::string& name, std::optional<WeightFormat> format) {
  constexpr size_t kTokens = 20;  // what every model has positions for
  const auto backend = TwoThreadBackend();
  ModelLimits limits;
  limits.slots = 1;
  limits.max_batch_tokens = limits.max_logits_rows = kTokens;
  limits.weight_format = format;
  const auto folder = Open(name);
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

// The most that it may be, in nats a token.
struct Case {
  std::string model;
  double int4 = 0;
  double int8 = 2e-3;
  double halves = 0;  // of formats of 16 bits
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.model; }

double DivergenceOf(const std::string& model, WeightFormat format) {
  const Answers exact = AnswersOf(model, std::nullopt);
  const Answers rounded = AnswersOf(model, format);
  EXPECT_EQ(exact.format, "f32");
  EXPECT_THAT(rounded.format, testing::HasSubstr(WeightFormatName(format)));
  const double divergence =
      MeanDivergence(exact.logits, rounded.logits, exact.tokens);
  testing::Test::RecordProperty(WeightFormatName(format),
                                std::to_string(divergence * 1e6));
  return divergence;
}

// Back ends that round what they multiply by such weights lose more.
class HalvesDivergence : public ::testing::TestWithParam<Case> {};

TEST_P(HalvesDivergence, OfAModelCanHardlyBeTold) {
  for (const WeightFormat format :
       {WeightFormat::kBFloat16, WeightFormat::kFloat16}) {
    const double divergence = DivergenceOf(GetParam().model, format);
    EXPECT_LE(divergence, GetParam().halves) << WeightFormatName(format);
    EXPECT_GT(divergence, 0) << WeightFormatName(format);
  }
}

class Int8Divergence : public ::testing::TestWithParam<Case> {};

TEST_P(Int8Divergence, OfAModelIsSmall) {
  const double divergence = DivergenceOf(GetParam().model, WeightFormat::kInt8);
  EXPECT_LE(divergence, GetParam().int8);
  EXPECT_GT(divergence, 0);
}

// On a CPU alone.
class Int4Divergence : public ::testing::TestWithParam<Case> {};

TEST_P(Int4Divergence, OfAModelIsAsSmallAsItsWeightsAllow) {
  const double divergence = DivergenceOf(GetParam().model, WeightFormat::kInt4);
  EXPECT_LE(divergence, GetParam().int4);
  EXPECT_GT(divergence, 0);
}

std::string TestName(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.model;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

const Case kSmall[] = {
    {"mamba-induction", 0.045},  {"mamba-recall", 0.012},
    {"mamba2-induction", 0.036}, {"h3-induction", 0.004},
    {"h3-recall", 0.05},         {"attention-induction", 0.0015},
    {"s4d-recall", 0.5},
};
const Case kRandom[] = {
    {"random-mamba-130m", 1.2e-3, 1.5e-5, 4e-6},
    {"random-mamba2-130m", 3.5e-3, 3e-5, 8e-6},
    {"random-h3-125m", 2.5e-3, 2e-5, 6e-6},
};
const Case kEnglish[] = {{"mamba-english", 0.035}};

INSTANTIATE_TEST_SUITE_P(RandomHalves, HalvesDivergence,
                         testing::ValuesIn(kRandom), TestName);
INSTANTIATE_TEST_SUITE_P(Small, Int8Divergence, testing::ValuesIn(kSmall),
                         TestName);
INSTANTIATE_TEST_SUITE_P(Random, Int8Divergence, testing::ValuesIn(kRandom),
                         TestName);
INSTANTIATE_TEST_SUITE_P(English, Int8Divergence, testing::ValuesIn(kEnglish),
                         TestName);
INSTANTIATE_TEST_SUITE_P(SmallInt4, Int4Divergence, testing::ValuesIn(kSmall),
                         TestName);
INSTANTIATE_TEST_SUITE_P(RandomInt4, Int4Divergence, testing::ValuesIn(kRandom),
                         TestName);
INSTANTIATE_TEST_SUITE_P(EnglishInt4, Int4Divergence,
                         testing::ValuesIn(kEnglish), TestName);

}  // namespace
}  // namespace engram
