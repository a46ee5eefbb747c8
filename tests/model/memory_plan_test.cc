#include "model/memory_plan.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/large_weights.h"
#include "kernels/status.h"
#include "model/load_model.h"
#include "model/model.h"
#include "tests/model/golden_model.h"
#include "tests/model/model_folder.h"

namespace engram {
namespace {

constexpr ModelLimits kLimits = {.slots = 3,
                                 .max_batch_tokens = 40,
                                 .max_logits_rows = 5,
                                 .kv_bytes = 1 << 20};

absl::StatusOr<MemoryPlan> Plan(const TemporaryFolder& folder) {
  const auto opened = ModelFolder::Open(folder.path());
  if (!opened.ok()) return opened.status();
  return (*opened)->Plan(kLimits);
}

// Numbers that are counted by hand: in floats, two layers.
TEST(MemoryPlan, CountsEveryPartOfAMamba) {
  const TemporaryFolder folder;
  WriteRandomMamba(folder, {});
  const auto plan = Plan(folder);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto backend = TwoThreadBackend();
  const auto model = LoadModel(folder.path(), backend.get(), kLimits, 0);
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelInfo& info = (*model)->info();
  EXPECT_EQ(plan->weights, info.parameters * sizeof(float));
  EXPECT_EQ(plan->states, 3 * info.state_bytes);
  EXPECT_EQ(plan->key_values, 0u);
  // Of a token: residual and last norm; and of a block, in multiples of 16,
  // norm, x and z, the convolution, what the scan is given, and dt. Of a row of
  // logits its hidden vector.
  const size_t block = 32 + 80 + 48 + 16 + 48;
  const size_t token = 2 * 19 + block;
  // For sampling, of each row scores and weights in blocks of 256 ids, and of
  // each block a sum of 8 bytes.
  const size_t sampling = 5 * (2 * 256 + 2);
  EXPECT_EQ(plan->buffers, (40 * token + 5 * 19 + sampling) * sizeof(float));
  EXPECT_EQ(plan->logits, 40u * 5 * sizeof(float));
  EXPECT_EQ(plan->total(),
            plan->weights + plan->states + plan->buffers + plan->logits);
}

TEST(MemoryPlan, CountsTheOtherFamilies) {
  const auto backend = TwoThreadBackend();
  for (const char* family : {"mamba2", "hybrid", "h3", "s4d", "attention"}) {
    const TemporaryFolder folder;
    if (std::string(family) == "mamba2") {
      WriteRandomMamba2(folder, {});
    } else if (std::string(family) == "hybrid") {
      WriteRandomHybrid(folder, {});
    } else {
      RandomH3Shape shape;
      shape.family = family;
      WriteRandomH3(folder, shape);
    }
    const auto plan = Plan(folder);
    ASSERT_TRUE(plan.ok()) << family << ": " << plan.status();
    const auto model = LoadModel(folder.path(), backend.get(), kLimits, 0);
    ASSERT_TRUE(model.ok()) << family << ": " << model.status();
    const ModelInfo& info = (*model)->info();
    EXPECT_EQ(plan->states, 3 * info.state_bytes) << family;
    EXPECT_EQ(plan->key_values, info.kv_blocks * info.kv_block_bytes) << family;
    EXPECT_GT(plan->weights, 0u) << family;
    EXPECT_GT(plan->buffers, 40u * 2 * 12 * sizeof(float)) << family;
  }
}

// Of the widest of those that a device has a library for, whose inputs are
// rounded apart and whose sums may be added to y.
TEST(MemoryPlan, CountsWhatALibraryOfProductsTakes) {
  const TemporaryFolder folder;
  WriteRandomMamba(folder, {});
  ModelLimits limits = kLimits;
  limits.weight_format = WeightFormat::kBFloat16;
  const auto opened = ModelFolder::Open(folder.path());
  ENGRAM_CHECK_OK(opened.status());
  const auto without = (*opened)->Plan(limits);
  // Those of out_proj, [19, 38], and of in_proj, [76, 19].
  const int64_t large = SetLargeWeightBytesForTest(19 * 38 * 2);
  const auto with = (*opened)->Plan(limits);
  SetLargeWeightBytesForTest(large);
  ENGRAM_CHECK_OK(without.status());
  ENGRAM_CHECK_OK(with.status());
  EXPECT_EQ(with->buffers - without->buffers, 40u * (128 + 128));
}

TEST(MemoryPlan, SumsThatDoNotFitAreTheLargestNumber) {
  MemoryPlan plan;
  plan.states = SIZE_MAX - 1;
  plan.logits = 3;
  EXPECT_EQ(plan.total(), SIZE_MAX);
}

}  // namespace
}  // namespace engram
