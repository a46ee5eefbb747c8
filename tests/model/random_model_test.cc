#include "model/random_model.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/status.h"
#include "tests/model/step.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

// What is published of them, padding of the vocabulary included.
const std::map<std::string, int64_t>& PublishedParameters() {
  static const auto* const parameters = new std::map<std::string, int64_t>{
      {"mamba-130m", 129'135'360},   {"mamba-790m", 793'204'224},
      {"mamba-2.8b", 2'768'345'600}, {"mamba2-130m", 128'989'632},
      {"mamba2-780m", 780'161'280},  {"mamba2-2.7b", 2'702'599'680},
  };
  return *parameters;
}

std::unique_ptr<Backend> Cpu() {
  return MakeBackend({BackendKind::kCpu, 1}).value();
}

TEST(RandomModel, HasAsManyParametersAsThePublishedOne) {
  const auto backend = Cpu();
  ModelLimits limits;
  limits.weight_format = WeightFormat::kFloat32;
  for (const auto& [shape, parameters] : PublishedParameters()) {
    const auto folder = RandomModel(shape, DataType::kBFloat16);
    ENGRAM_CHECK_OK(folder.status());
    const auto plan = (*folder)->Plan(*backend, limits);
    ENGRAM_CHECK_OK(plan.status());
    EXPECT_EQ(plan->parameters, parameters) << shape;
  }
}

TEST(RandomModel, IsUnderstoodInEveryShape) {
  for (const std::string& shape : RandomModelShapes()) {
    const auto folder = RandomModel(shape, DataType::kFloat16);
    ENGRAM_CHECK_OK(folder.status());
    const auto plan = (*folder)->Plan(*Cpu(), {});
    EXPECT_TRUE(plan.ok()) << plan.status();
  }
}

TEST(RandomModel, StepsWithFiniteLogitsThatDiffer) {
  for (const char* shape : {"mamba-130m", "mamba2-130m", "h3-125m"}) {
    const auto folder = RandomModel(shape, DataType::kBFloat16);
    ENGRAM_CHECK_OK(folder.status());
    const auto backend = MakeBackend({BackendKind::kCpu, 2});
    ModelLimits limits;
    limits.slots = 1;
    limits.max_batch_tokens = 4;
    limits.max_logits_rows = 1;
    limits.kv_bytes = 1 << 20;
    const auto model = (*folder)->LoadModel(backend->get(), limits, 0);
    ENGRAM_CHECK_OK(model.status());
    const std::vector<int32_t> tokens = {1, 2, 3, 4};
    Batch batch;
    batch.rows.push_back(
        RowWith(LogitsWanted::kLast, (*model)->states().TryTake(4), tokens));
    ENGRAM_CHECK_OK((*model)->states().Clear(batch.rows[0].slot));
    const auto step = RunStep(model->get(), batch);
    ENGRAM_CHECK_OK(step.status());
    EXPECT_TRUE(step->finite[0]) << shape;
    EXPECT_NE(step->logits[7], step->logits[8]) << shape;
  }
}

TEST(RandomModel, CanHaveItsFirstLayersAlone) {
  for (const char* shape : {"mamba-130m", "h3-125m"}) {
    const auto whole = RandomModel(shape, DataType::kBFloat16);
    const auto part = RandomModel(shape, DataType::kBFloat16, {.layers = 3});
    ENGRAM_CHECK_OK(part.status());
    const auto plan = (*part)->Plan(*Cpu(), {});
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_LT(plan->states, (*whole)->Plan(*Cpu(), {})->states) << shape;
  }
}

TEST(RandomModel, KeepsALayerOfAttentionWhereAHybridIsCut) {
  for (const int64_t layers : {1, 2, 7, 9}) {
    const auto folder =
        RandomModel("h3-125m", DataType::kBFloat16, {.layers = layers});
    ENGRAM_CHECK_OK(folder.status());
    const auto plan = (*folder)->Plan(*Cpu(), {});
    ENGRAM_CHECK_OK(plan.status());
    EXPECT_EQ(plan->key_values > 0, layers > 1) << layers << " layers";
  }
}

TEST(RandomModel, IsUnderstoodWithASmallerWidthAndVocabulary) {
  for (const char* shape : {"mamba-130m", "mamba2-130m", "h3-125m"}) {
    const auto folder =
        RandomModel(shape, DataType::kBFloat16,
                    {.layers = 1, .d_model = 96, .vocabulary = 64});
    ENGRAM_CHECK_OK(folder.status());
    const auto plan = (*folder)->Plan(*Cpu(), {});
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_LT(plan->weights, 500'000) << shape;
  }
}

TEST(RandomModel, NamesTheShapesThatThereAre) {
  const auto folder = RandomModel("mamba-7b", DataType::kBFloat16);
  EXPECT_EQ(folder.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(folder.status().message()),
              HasSubstr("mamba-2.8b, mamba2-130m"));
}

}  // namespace
}  // namespace engram
