// What the host of a device does in the steps of a model: when it waits, and
// for what. The device is emulated, and runs nothing before it is waited for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/large_weights.h"
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
    return Load(backend, folder_.path());
  }
  std::unique_ptr<Model> Load(Backend* backend, const std::string& folder) {
    ModelLimits limits;
    limits.slots = 4;
    limits.max_batch_tokens = 32;
    limits.max_logits_rows = 8;
    auto model = LoadModel(folder, backend, limits, 0);
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
  absl::Status Clear(int slot) { return model_->states().Clear(slot); }
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

// Rows and requests go there together, outcomes come back together; whatever
// the rows ask for, and whichever of a bucket's they are.
TEST_F(CudaStepsTest, ADecodeStepIsACopyThereAGraphAndACopyBack) {
  ENGRAM_CHECK_OK(model_->WarmUp());
  SamplingParameters parameters = {.temperature = 0.8f,
                                   .repetition_penalty = 1.5f,
                                   .frequency_penalty = 0.5f,
                                   .logit_bias = {{3, 1.0f}, {5, -1.0f}}};
  TokenSet seen(model_->info().vocabulary_size);
  seen.Insert(1);
  const std::map<int32_t, int32_t> generated = {{2, 1}};
  for (const int rows : {3, 4}) {
    Batch batch = Prompts(rows);
    batch.rows[0].draw.parameters = &parameters;
    batch.rows[0].draw.seen = &seen;
    batch.rows[0].draw.generated = &generated;
    batch.rows[1].alternatives = 3;
    ENGRAM_CHECK_OK(model_->Begin(batch));
    batch = Ahead(batch);
    for (int step = 0; step < 4; ++step) {
      const emulation::Counts before = emulation::counts();
      ENGRAM_CHECK_OK(model_->Begin(batch));
      EXPECT_EQ(emulation::counts().graphs, before.graphs + 1);
      EXPECT_EQ(emulation::counts().alone, before.alone);
      EXPECT_EQ(emulation::counts().waits, before.waits);
      ASSERT_TRUE(model_->Finish().ok());
      EXPECT_EQ(emulation::counts().waits, before.waits + 1);
      EXPECT_EQ(emulation::counts().copies, before.copies + 2);
    }
    ASSERT_TRUE(model_->Finish().ok());
    for (const BatchRow& row : batch.rows) model_->states().Free(row.slot);
  }
}

TEST_F(CudaStepsTest, PaddingAsksForNothing) {
  ENGRAM_CHECK_OK(model_->WarmUp());
  const Batch batch = Prompts(4);
  // The most probable ids of the first of so many rows, from their begin.
  const auto best = [&](size_t rows, size_t first_that_asks) {
    Batch some = batch;
    some.rows.resize(rows);
    for (BatchRow& row : some.rows) ENGRAM_CHECK_OK(Clear(row.slot));
    for (size_t i = first_that_asks; i < rows; ++i) {
      some.rows[i].alternatives = 5;
    }
    ENGRAM_CHECK_OK(model_->Begin(some));
    std::vector<int32_t> ids;
    const StepResult result = *model_->Finish();
    for (const LogProbability& one : result.rows[0].outcomes[0].top) {
      ids.push_back(one.id);
    }
    return ids;
  };
  const std::vector<int32_t> expected = best(3, 0);
  // Both copies of the requests hold a fourth one that does.
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(best(4, 3).empty());
  for (int i = 0; i < 2; ++i) EXPECT_EQ(best(3, 0), expected);
}

// More than there is room for: it is run as it is, in parts.
TEST_F(CudaStepsTest, AskingForMoreThanThereIsRoomForDrawsTheSame) {
  ENGRAM_CHECK_OK(model_->WarmUp());
  const std::vector<int32_t> many(900, 0);
  std::vector<int32_t> drawn[2];
  for (const bool is_long : {false, true}) {
    Batch batch = Prompts(3);
    for (BatchRow& row : batch.rows) {
      row.draw.stop_ids =
          absl::MakeConstSpan(many).first(is_long ? many.size() : 1);
    }
    const emulation::Counts before = emulation::counts();
    ENGRAM_CHECK_OK(model_->Begin(batch));
    EXPECT_EQ(emulation::counts().graphs, before.graphs + (is_long ? 0 : 1));
    const auto result = model_->Finish();
    ENGRAM_CHECK_OK(result.status());
    for (const RowOutcome& row : result->rows) {
      drawn[is_long].push_back(row.outcomes[0].token);
    }
    for (const BatchRow& row : batch.rows) model_->states().Free(row.slot);
  }
  EXPECT_EQ(drawn[0], drawn[1]);
}

TEST_F(CudaStepsTest, MoreLogitsThanWereThoughtOfForgetWhatWasRecorded) {
  ENGRAM_CHECK_OK(model_->WarmUp());
  const std::vector<int32_t> token = {5};
  const auto logits = [&] {
    const int slot = model_->states().Take();
    const auto step = RunStep(
        model_.get(), Batch{{RowWith(LogitsWanted::kLast, slot, token)}});
    model_->states().Free(slot);
    return step->logits;
  };
  const std::vector<float> expected = logits();
  ENGRAM_CHECK_OK(backend_->ReserveSteps({.outcomes = 8, .ids = 40}));
  EXPECT_EQ(backend_->recordings().count, 3) << "there is room";
  ENGRAM_CHECK_OK(backend_->ReserveSteps({.outcomes = 200, .ids = 100000}));
  EXPECT_EQ(backend_->recordings().count, 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(logits(), expected);
}

// --- Buckets.

TEST_F(CudaStepsTest, EveryBucketThatTheLimitsAllowIsRecordedAtStart) {
  EXPECT_EQ(backend_->recordings().count, 0);
  ENGRAM_CHECK_OK(model_->WarmUp());
  // Of 1, 2 and 4 rows: there are no more slots.
  EXPECT_EQ(backend_->recordings().count, 3);
  const Batch batch = Prompts(3);
  ENGRAM_CHECK_OK(model_->Begin(batch));
  ASSERT_TRUE(model_->Finish().ok());
  EXPECT_EQ(backend_->recordings().count, 3);
}

TEST_F(CudaStepsTest, ModelsOfOneDeviceAreReplayedApart) {
  const std::vector<int32_t> token = {5};
  const auto logits = [&](Model* model) {
    const int slot = model->states().Take();
    const auto step =
        RunStep(model, Batch{{RowWith(LogitsWanted::kLast, slot, token)}});
    model->states().Free(slot);
    return step->logits;
  };
  ENGRAM_CHECK_OK(model_->WarmUp());
  const std::vector<float> expected = logits(model_.get());
  RandomMambaShape shape;
  shape.layers = 3;
  TemporaryFolder other_folder;
  WriteRandomMamba(other_folder, shape);
  const auto other = Load(backend_.get(), other_folder.path());
  const auto own_device = MakeCudaBackend().value();
  const auto alone = Load(own_device.get(), other_folder.path());
  EXPECT_EQ(logits(other.get()), logits(alone.get()));
  EXPECT_EQ(logits(model_.get()), expected);
}

// Knows which memory holds what a step leaves for itself: neither weights nor
// states.
class WorkMemoryBackend final : public ReplayForwardingBackend {
 public:
  using ReplayForwardingBackend::ReplayForwardingBackend;

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    ENGRAM_ASSIGN_OR_RETURN(auto buffer, ForwardingBackend::Allocate(bytes));
    memory_.push_back({buffer->data(), bytes});
    return buffer;
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyFromHost(
      void* target, const void* host, size_t bytes) override {
    Forget(target);
    return ForwardingBackend::BeginCopyFromHost(target, host, bytes);
  }

  void Forget(const void* place) {
    std::erase_if(memory_, [place](const auto& one) {
      const char* const begin = static_cast<const char*>(one.first);
      return place >= begin && place < begin + one.second;
    });
  }
  const std::vector<std::pair<void*, size_t>>& memory() const {
    return memory_;
  }

 private:
  std::vector<std::pair<void*, size_t>> memory_;
};

struct BucketFamily {
  const char* name;
  void (*write)(const TemporaryFolder& folder);
  int64_t most_rows;
};
void PrintTo(const BucketFamily& family, std::ostream* out) {
  *out << family.name;
}

class CudaBuckets : public ::testing::TestWithParam<BucketFamily> {
 protected:
  void TearDown() override { emulation::poisoned_at_replay().clear(); }
};

INSTANTIATE_TEST_SUITE_P(
    Families, CudaBuckets,
    ::testing::Values(BucketFamily{"Mamba",
                                   [](const TemporaryFolder& folder) {
                                     WriteRandomMamba(folder, {});
                                   },
                                   257},
                      BucketFamily{"Mamba2",
                                   [](const TemporaryFolder& folder) {
                                     WriteRandomMamba2(folder, {});
                                   },
                                   33},
                      BucketFamily{"HybridH3",
                                   [](const TemporaryFolder& folder) {
                                     RandomH3Shape shape;
                                     shape.attention_layers = {1};
                                     shape.rotary_dim = 2;
                                     WriteRandomH3(folder, shape);
                                   },
                                   33}),
    ::testing::PrintToStringParamName());

// Rows that all go on from one state: in the first and the last place, in the
// fullest and the emptiest step of each bucket.
TEST_P(CudaBuckets, GiveARowTheSameBits) {
  TemporaryFolder folder;
  GetParam().write(folder);
  const auto device = MakeCudaBackend().value();
  WorkMemoryBackend backend(device.get());
  ModelLimits limits;
  limits.slots = static_cast<int>(GetParam().most_rows) + 1;
  limits.max_batch_tokens = limits.max_logits_rows = 300;
  const auto model = LoadModel(folder.path(), &backend, limits, 0).value();
  StatePool& states = model->states();
  backend.Forget(states.Layer(0, 0).data);
  if (states.key_values().blocks > 0) {
    backend.Forget(states.KeyValueLayer(0).data);
  }
  emulation::poisoned_at_replay() = backend.memory();

  const std::vector<int32_t> prompt = {3, 1, 4, 1, 5}, token = {9};
  const int source = states.TryTake(40);
  ENGRAM_CHECK_OK(states.Clear(source));
  ENGRAM_CHECK_OK(RunStep(model.get(),
                          Batch{{RowWith(LogitsWanted::kNone, source, prompt)}})
                      .status());
  std::vector<float> expected;
  std::string expected_state;
  std::vector<int> slots;
  for (const int64_t rows :
       {1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 97, 129, 193, 257}) {
    if (rows > GetParam().most_rows) break;
    SCOPED_TRACE(rows);
    while (static_cast<int64_t>(slots.size()) < rows) {
      slots.push_back(states.TryTake(40, source));
    }
    Batch batch;
    for (int64_t i = 0; i < rows; ++i) {
      batch.rows.push_back(RowWith(LogitsWanted::kLast, source, token));
      batch.rows.back().slot_out = slots[i];
    }
    // As it is, recorded, and for other rows than those it was recorded for.
    for (int run = 0; run < (rows <= 33 ? 2 : 1); ++run) {
      const auto step = RunStep(model.get(), batch);
      ENGRAM_CHECK_OK(step.status());
      const size_t width = step->logits.size() / rows;
      if (expected.empty()) expected = step->logits;
      for (const int64_t row : {int64_t{0}, rows - 1}) {
        const std::vector<float> own(step->logits.begin() + row * width,
                                     step->logits.begin() + (row + 1) * width);
        EXPECT_EQ(own, expected) << "row " << row;
        std::string state(states.bytes(slots[row]), '?');
        ENGRAM_CHECK_OK(states.Save(slots[row], state.data()));
        if (expected_state.empty()) expected_state = state;
        EXPECT_TRUE(state == expected_state) << "row " << row;
      }
      EXPECT_THAT(step->finite, ::testing::Each(true));
    }
  }
  EXPECT_GE(backend.recordings().count, 6) << "of 1 to 32 rows";
}

// What a row of 300 tokens leaves, and how many products of it were the
// library's.
struct PromptResult {
  std::vector<float> logits;
  std::string state;
  int64_t library_products = 0;
};

PromptResult RunPromptOf300(const std::string& folder) {
  auto backend = MakeCudaBackend();
  ENGRAM_CHECK_OK(backend.status());
  ModelLimits limits;
  limits.slots = 1;
  limits.max_batch_tokens = 300;
  limits.max_logits_rows = 1;
  limits.weight_format = WeightFormat::kBFloat16;
  auto model = LoadModel(folder, backend->get(), limits, 0);
  ENGRAM_CHECK_OK(model.status());
  StatePool& states = (*model)->states();
  std::vector<int32_t> tokens(300);
  for (int i = 0; i < 300; ++i) tokens[i] = i * i % 40;
  const int slot = states.Take();
  const int64_t before = emulation::runs(emulation::Algorithm::kPlain);
  const auto step =
      RunStep(model->get(), {{RowWith(LogitsWanted::kLast, slot, tokens)}});
  ENGRAM_CHECK_OK(step.status());
  PromptResult result;
  result.library_products =
      emulation::runs(emulation::Algorithm::kPlain) - before;
  result.logits = step->logits;
  result.state.resize(states.bytes(slot));
  ENGRAM_CHECK_OK(states.Save(slot, result.state.data()));
  return result;
}

TEST(CudaPromptTest, HasTheSameBitsWithoutTheLibraryOfProducts) {
  const TemporaryFolder folder;
  WriteRandomMamba(folder,
                   {.layers = 1, .d_model = 272, .d_inner = 544, .vocab = 40});
  const emulation::Options options = emulation::options();
  emulation::algorithms() = {emulation::Algorithm::kPlain};
  const int64_t large = SetLargeWeightBytesForTest(100'000);
  const PromptResult with = RunPromptOf300(folder.path());
  emulation::options().cublaslt = false;
  const PromptResult without = RunPromptOf300(folder.path());
  emulation::options() = options;
  SetLargeWeightBytesForTest(large);
  EXPECT_EQ(with.library_products, 2) << "in_proj and out_proj";
  EXPECT_EQ(without.library_products, 0);
  EXPECT_EQ(with.logits, without.logits);
  EXPECT_TRUE(with.state == without.state);
}

TEST_F(CudaStepsTest, EveryKernelMayBeginBeforeTheOneInFrontIsDone) {
  const int64_t before = emulation::counts().in_turn;
  ENGRAM_CHECK_OK(model_->WarmUp());
  EXPECT_EQ(emulation::counts().in_turn, before);
}

// What sequences draw if they run ahead, on a device whose kernels begin as
// late as they can, when they are launched, or before the ones in front are
// done.
TEST_F(CudaStepsTest, AFastDeviceDrawsWhatASlowOneDraws) {
  std::vector<std::vector<int32_t>> drawn[3];
  const emulation::Options before = emulation::options();
  for (const int device : {0, 1, 2}) {
    emulation::options().at_once = device == 1;
    emulation::options().early_threads = device == 2 ? 2048 : 0;
    Batch batch = Prompts(3);
    SamplingParameters parameters = {.temperature = 0.8f, .seed = 3};
    for (BatchRow& row : batch.rows) row.draw.parameters = &parameters;
    ENGRAM_CHECK_OK(model_->Begin(batch));
    batch = Ahead(batch);
    for (int step = 0; step < 12; ++step) {
      for (BatchRow& row : batch.rows) ++row.draw.index;
      ENGRAM_CHECK_OK(model_->Begin(batch));
      const auto result = model_->Finish();
      ENGRAM_CHECK_OK(result.status());
      std::vector<int32_t> tokens;
      for (const RowOutcome& row : result->rows) {
        tokens.push_back(row.outcomes[0].token);
      }
      drawn[device].push_back(tokens);
    }
    ENGRAM_CHECK_OK(model_->Finish().status());
    for (const BatchRow& row : batch.rows) model_->states().Free(row.slot);
  }
  emulation::options() = before;
  EXPECT_EQ(drawn[0], drawn[1]);
  EXPECT_EQ(drawn[0], drawn[2]);
}

}  // namespace
}  // namespace engram
