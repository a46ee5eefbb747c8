// What the host of a device does in the steps of a model: when it waits, and
// for what. The device is emulated, and runs nothing before it is waited for.
#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/status.h"
#include "model/load_model.h"
#include "model/model.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/model/model_folder.h"
#include "tests/model/step.h"
#include "tests/support/forwarding_backend.h"

namespace engram {
namespace {

// Counts the events that are waited for.
class WaitingBackend final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  int waits() const { return waits_; }

  absl::StatusOr<std::unique_ptr<DeviceEvent>> RecordEvent() override {
    ENGRAM_ASSIGN_OR_RETURN(auto event, ForwardingBackend::RecordEvent());
    return std::make_unique<Event>(std::move(event), &waits_);
  }

 private:
  class Event final : public DeviceEvent {
   public:
    Event(std::unique_ptr<DeviceEvent> inner, int* waits)
        : inner_(std::move(inner)), waits_(*waits) {}
    bool Reached() override { return inner_->Reached(); }
    absl::Status Wait() override {
      ++waits_;
      return inner_->Wait();
    }

   private:
    const std::unique_ptr<DeviceEvent> inner_;
    int& waits_;
  };

  int waits_ = 0;
};

class CudaStepsTest : public ::testing::Test {
 protected:
  CudaStepsTest() {
    WriteRandomMamba(folder_, {});
    auto backend = MakeCudaBackend();
    ENGRAM_CHECK_OK(backend.status());
    backend_ = *std::move(backend);
    model_ = Load(backend_.get());
  }

  std::unique_ptr<Model> Load(Backend* backend) {
    ModelLimits limits;
    limits.slots = 4;
    limits.max_batch_tokens = 32;
    limits.max_logits_rows = 8;
    auto model = LoadModel(folder_.path(), backend, limits, 0);
    ENGRAM_CHECK_OK(model.status());
    return *std::move(model);
  }

  // A token each for so many slots, whose prompts differ.
  Batch Prompts(int rows) {
    static const std::vector<int32_t> tokens = {1, 2, 3, 4};
    Batch batch;
    for (int i = 0; i < rows; ++i) {
      batch.rows.push_back(RowWith(LogitsWanted::kLast, model_->states().Take(),
                                   absl::MakeConstSpan(tokens).subspan(i, 1)));
    }
    return batch;
  }
  // The step behind that.
  static Batch Ahead(const Batch& batch) {
    Batch next = batch;
    for (BatchRow& row : next.rows) {
      row.tokens = {};
      row.follows = true;
    }
    return next;
  }

  TemporaryFolder folder_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
};

TEST_F(CudaStepsTest, TheHostWaitsOnceAStepForTheStepBefore) {
  ASSERT_TRUE(model_->info().runs_ahead);
  Batch batch = Prompts(2);
  ENGRAM_CHECK_OK(backend_->Synchronize());
  const emulation::Counts before = emulation::counts();
  ENGRAM_CHECK_OK(model_->Begin(batch));
  batch = Ahead(batch);
  for (int step = 1; step <= 5; ++step) {
    SCOPED_TRACE(step);
    ENGRAM_CHECK_OK(model_->Begin(batch));
    const emulation::Counts begun = emulation::counts();
    EXPECT_EQ(begun.waits, before.waits + step - 1);
    // Nothing of the step before has run when this one is in the queue.
    if (step == 1) {
      EXPECT_EQ(begun.kernels, before.kernels);
    }
    ASSERT_TRUE(model_->Finish().ok());
    EXPECT_EQ(emulation::counts().waits, before.waits + step);
    EXPECT_GT(emulation::counts().kernels, begun.kernels);
  }
  ASSERT_TRUE(model_->Finish().ok());
  EXPECT_EQ(emulation::counts().pageable_copies, before.pageable_copies);
}

// Outcomes would be brought to where the model was.
TEST_F(CudaStepsTest, AModelThatGoesWaitsForWhatItHasBegun) {
  WaitingBackend backend(backend_.get());
  model_ = Load(&backend);
  const Batch batch = Prompts(2);
  ENGRAM_CHECK_OK(model_->Begin(batch));
  ENGRAM_CHECK_OK(model_->Begin(Ahead(batch)));
  const int waits = backend.waits();
  model_ = nullptr;
  EXPECT_EQ(backend.waits(), waits + 1) << "for the last of both";
}

}  // namespace
}  // namespace engram
