#include "model/memory_plan.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "kernels/status.h"
#include "model/host_products.h"
#include "model/load_model.h"
#include "model/model.h"
#include "tests/model/golden_model.h"
#include "tests/model/model_folder.h"
#include "tests/model/step.h"

namespace engram {
namespace {

constexpr ModelLimits kLimits = {.slots = 3,
                                 .max_batch_tokens = 40,
                                 .max_logits_rows = 5,
                                 .kv_bytes = 1 << 20};

std::unique_ptr<ModelFolder> Open(const TemporaryFolder& folder) {
  auto opened = ModelFolder::Open(folder.path());
  ENGRAM_CHECK_OK(opened.status());
  return *std::move(opened);
}

MemoryPlan PlanOf(const TemporaryFolder& folder, const Backend& backend,
                  const ModelLimits& limits = kLimits) {
  const auto plan = Open(folder)->Plan(backend, limits);
  ENGRAM_CHECK_OK(plan.status());
  return *plan;
}

void WriteRandom(const TemporaryFolder& folder, const std::string& family) {
  if (family == "mamba") {
    WriteRandomMamba(folder, {});
  } else if (family == "mamba2") {
    WriteRandomMamba2(folder, {});
  } else if (family == "hybrid") {
    WriteRandomHybrid(folder, {});
  } else {
    RandomH3Shape shape;
    shape.family = family == "h3_hybrid" ? "h3" : family;
    if (family == "h3_hybrid") shape.attention_layers = {1};
    WriteRandomH3(folder, shape);
  }
}

// Numbers that are counted by hand: in floats, two layers; matrices have their
// outputs in panels of 32.
TEST(MemoryPlanOnACpu, CountsEveryPartOfAMamba) {
  const TemporaryFolder folder;
  WriteRandomMamba(folder, {});
  const auto backend = TwoThreadBackend();
  const MemoryPlan plan = PlanOf(folder, *backend);
  const auto model = LoadModel(folder.path(), backend.get(), kLimits, 0);
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelInfo& info = (*model)->info();
  EXPECT_EQ(plan.parameters, info.parameters);
  const size_t matrices = 96 * 19 + 32 * 38 + 64 * 3 + 32 * 38;
  const size_t vectors = 19 + 38 * 4 + 38 + 38 + 38 * 5 + 38;
  EXPECT_EQ(plan.weights,
            (2 * (matrices + vectors) + 64 * 19 + 19) * sizeof(float));
  EXPECT_EQ(plan.states, 3 * info.state_bytes);
  EXPECT_EQ(plan.key_values, 0u);
  // Of a token: residual and last norm; and of a block, in multiples of 16,
  // norm, x and z, the convolution, what the scan is given, and dt. Of a row of
  // logits its hidden vector.
  const size_t block = 32 + 80 + 48 + 16 + 48;
  const size_t token = 2 * 19 + block;
  // For sampling, of each row scores and weights in blocks of 256 ids, and of
  // each block a sum of 8 bytes.
  const size_t sampling = 5 * (2 * 256 + 2);
  // For looks into states, the widest inputs and outputs of a few rows.
  const size_t looks = kInspectedRows * (38 + 2 * 38);
  EXPECT_EQ(plan.buffers,
            (40 * token + 5 * 19 + sampling + looks) * sizeof(float));
  EXPECT_EQ(plan.logits, 40u * 5 * sizeof(float));
  EXPECT_EQ(plan.total(),
            plan.weights + plan.states + plan.buffers + plan.logits);
  EXPECT_EQ(plan.pinned, 0u);
}

struct Case {
  std::string family;
  WeightFormat format = WeightFormat::kFloat32;
};

class MemoryPlanOf : public testing::TestWithParam<Case> {
 protected:
  MemoryPlanOf() {
    WriteRandom(folder_, GetParam().family);
    limits_.weight_format = GetParam().format;
  }

  size_t used() const { return backend_->device_memory().used; }
  size_t pinned() const {
    return backend_->pinned_memory().value_or(MemoryUse()).used;
  }

  // One of as many tokens and one of as many logits as can be, and then a token
  // of each slot, which goes on by itself.
  void RunLargestSteps(Model* model) {
    const std::vector<int32_t> tokens(limits_.max_batch_tokens, 1);
    const absl::Span<const int32_t> all = tokens;
    const int first = model->states().Take();
    Batch batch;
    batch.rows = {RowWith(LogitsWanted::kLast, first, all)};
    ENGRAM_CHECK_OK(RunStep(model, batch).status());
    batch.rows = {
        RowWith(LogitsWanted::kAll, first, all.first(limits_.max_logits_rows))};
    ENGRAM_CHECK_OK(RunStep(model, batch).status());
    batch.rows = {RowWith(LogitsWanted::kLast, first, all.first(1))};
    for (int slot = 1; slot < limits_.slots; ++slot) {
      batch.rows.push_back(
          RowWith(LogitsWanted::kLast, model->states().Take(), all.first(1)));
    }
    ENGRAM_CHECK_OK(model->Begin(batch));
    for (BatchRow& row : batch.rows) {
      row.tokens = {};
      row.follows = true;
    }
    ENGRAM_CHECK_OK(model->Begin(batch));
    ENGRAM_CHECK_OK(model->Finish().status());
    ENGRAM_CHECK_OK(model->Finish().status());
  }

  const TemporaryFolder folder_;
  ModelLimits limits_ = kLimits;
  const std::unique_ptr<Backend> backend_ = TwoThreadBackend();
};

// To the byte; and once the plan's memory is there nothing more is taken, not
// for a moment either.
TEST_P(MemoryPlanOf, IsWhatTheBackEndHasOnceTheModelIsLoadedAndHasRun) {
  const size_t used_before = used(), pinned_before = pinned();
  const MemoryPlan plan = PlanOf(folder_, *backend_, limits_);
  EXPECT_EQ(used(), used_before);
  EXPECT_EQ(pinned(), pinned_before);

  ENGRAM_CHECK_OK(backend_->ReserveMemory(plan.need()));
  backend_->CloseMemory();
  const auto model =
      LoadModel(folder_.path(), backend_.get(), limits_, /*known_ids=*/0);
  ASSERT_TRUE(model.ok()) << model.status();
  ENGRAM_CHECK_OK((*model)->WarmUp());
  EXPECT_EQ(used() - used_before, plan.total());
  EXPECT_EQ(pinned() - pinned_before, plan.pinned);
  RunLargestSteps(model->get());
  EXPECT_EQ(used() - used_before, plan.total());
  EXPECT_EQ(pinned() - pinned_before, plan.pinned);

  const ModelInfo& info = (*model)->info();
  EXPECT_EQ(plan.states, backend_->BufferBytes(3 * info.state_bytes));
  EXPECT_EQ(plan.key_values > 0, info.kv_blocks > 0);
  EXPECT_GE(plan.key_values, info.kv_blocks * info.kv_block_bytes);
  EXPECT_GT(plan.weights, 0u);
}

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const char* family :
       {"mamba", "mamba2", "h3", "s4d", "hybrid", "h3_hybrid", "attention"}) {
    cases.push_back({family});
  }
  for (const WeightFormat format :
       {WeightFormat::kBFloat16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    cases.push_back({"mamba", format});
    cases.push_back({"hybrid", format});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Families, MemoryPlanOf, testing::ValuesIn(AllCases()),
                         [](const auto& info) {
                           return absl::StrCat(
                               info.param.family, "_",
                               WeightFormatName(info.param.format));
                         });

TEST(MemoryPlan, SumsThatDoNotFitAreTheLargestNumber) {
  MemoryPlan plan;
  plan.states = SIZE_MAX - 1;
  plan.logits = 3;
  EXPECT_EQ(plan.total(), SIZE_MAX);
}

}  // namespace
}  // namespace engram
