// What a model takes of a device that has a library of products, on an emulated
// one. All else is told by memory_plan_test, which runs on devices too.
#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/large_weights.h"
#include "kernels/status.h"
#include "model/load_model.h"
#include "model/memory_plan.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/model/model_folder.h"

namespace engram {
namespace {

constexpr RandomMambaShape kShape = {
    .layers = 1, .d_model = 272, .d_inner = 544};
constexpr int64_t kTokens = 40;

class CudaMemoryTest : public ::testing::Test {
 protected:
  CudaMemoryTest() {
    WriteRandomMamba(folder_, kShape);
    opened_ = ModelFolder::Open(folder_.path()).value();
  }
  ~CudaMemoryTest() override {
    SetLargeWeightBytesForTest(large_);
    emulation::options().cublaslt = true;
  }

  static std::unique_ptr<Backend> Make() { return MakeCudaBackend({}).value(); }

  MemoryPlan Plan(const Backend& backend) const {
    return opened_->Plan(backend, limits_).value();
  }

  const TemporaryFolder folder_;
  std::unique_ptr<ModelFolder> opened_;
  const ModelLimits limits_ = {.slots = 2,
                               .max_batch_tokens = kTokens,
                               .max_logits_rows = 2,
                               .weight_format = WeightFormat::kBFloat16};
  // in_proj and out_proj alone are large.
  const int64_t large_ =
      SetLargeWeightBytesForTest(kShape.d_model * kShape.d_inner * 2);
};

// Of the widest: inputs that are rounded apart, and sums that are added to y.
TEST_F(CudaMemoryTest, APlanHasTheLibrarysRoomWhereThereIsOne) {
  const MemoryPlan with = Plan(*Make());
  emulation::options().cublaslt = false;
  const std::unique_ptr<Backend> backend = Make();
  const MemoryPlan without = Plan(*backend);
  const size_t of_a_token = kShape.d_inner * 2 + kShape.d_model * 4;
  EXPECT_EQ(with.buffers - without.buffers,
            backend->BufferBytes(kTokens * of_a_token));
  EXPECT_EQ(with.total() - without.total(), with.buffers - without.buffers);
}

// Trials have their memory of what is reserved for what comes later.
TEST_F(CudaMemoryTest, IsWhatThePlanSaysWhenAlgorithmsHaveBeenTried) {
  const std::unique_ptr<Backend> backend = Make();
  const MemoryPlan plan = Plan(*backend);
  ENGRAM_CHECK_OK(backend->ReserveMemory(plan.need()));
  backend->CloseMemory();
  const auto model = opened_->LoadModel(backend.get(), limits_, 0);
  ASSERT_TRUE(model.ok()) << model.status();
  ENGRAM_CHECK_OK((*model)->WarmUp());
  EXPECT_EQ(backend->device_memory().used, plan.total());
  EXPECT_EQ(backend->pinned_memory()->used, plan.pinned);
  const std::optional<ProductLibrary> library = backend->product_library();
  ASSERT_TRUE(library.has_value());
  ASSERT_FALSE(library->choices.empty());
  for (const ProductLibrary::Choice& choice : library->choices) {
    EXPECT_TRUE(choice.found);
  }
}

// A model whose states and buffers take less than trials do.
TEST_F(CudaMemoryTest, IsReservedForTrialsThatTakeMoreThanWhatComesLater) {
  const std::unique_ptr<Backend> backend = Make();
  ModelLimits small = limits_;
  small.slots = small.max_batch_tokens = small.max_logits_rows = 1;
  const MemoryPlan plan = opened_->Plan(*backend, small).value();
  EXPECT_GT(plan.loading, plan.total());
  ENGRAM_CHECK_OK(backend->ReserveMemory(plan.need()));
  backend->CloseMemory();
  const auto model = opened_->LoadModel(backend.get(), small, 0);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(backend->device_memory().used, plan.total());
  EXPECT_TRUE(backend->product_library()->choices.front().found);
}

}  // namespace
}  // namespace engram
