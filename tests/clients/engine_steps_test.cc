#include "clients/cpp/engine_steps.h"

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/status.h"
#include "model/load_model.h"
#include "tests/support/folders.h"
#include "tests/support/scripted_model.h"

namespace engram::client {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kNoTime = absl::ZeroDuration();

struct Loaded {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
};

Loaded Load(std::unique_ptr<Backend> backend, const std::string& folder,
            int slots, size_t kv_bytes = size_t{1} << 20) {
  Loaded loaded;
  loaded.backend = std::move(backend);
  ModelLimits limits;
  limits.slots = slots;
  limits.max_batch_tokens = 16;
  limits.max_logits_rows = slots;
  limits.kv_bytes = kv_bytes;
  auto model = LoadModel(SourceFile(absl::StrCat("model/zoo/", folder)),
                         loaded.backend.get(), limits, 0);
  ENGRAM_CHECK_OK(model.status());
  loaded.model = *std::move(model);
  return loaded;
}

std::unique_ptr<Backend> Cpu() {
  return MakeBackend({BackendKind::kCpu, 1}).value();
}

TEST(EngineSteps, DecodesAndPrefillsForAtLeastTheTimeAndFreesItsSlots) {
  const Loaded loaded = Load(Cpu(), "mamba-induction", 3);
  const auto decode =
      MeasureDecode(3, absl::Milliseconds(20), loaded.model.get());
  ENGRAM_CHECK_OK(decode.status());
  EXPECT_GE(decode->steps, 5);
  EXPECT_GT(decode->fastest, kNoTime);
  EXPECT_LE(decode->fastest, decode->median);
  EXPECT_LE(decode->median, decode->slowest);
  EXPECT_GE(decode->slowest * decode->steps, absl::Milliseconds(20));
  const auto prefill = MeasurePrefill(16, kNoTime, loaded.model.get());
  ENGRAM_CHECK_OK(prefill.status());
  EXPECT_EQ(prefill->steps, 5);
  EXPECT_EQ(loaded.model->states().free_slots(), 3);
}

TEST(EngineSteps, DecodesOnADevice) {
  auto backend = MakeCudaBackend();
  if (absl::IsFailedPrecondition(backend.status())) {
    GTEST_SKIP() << "this machine has no device: " << backend.status();
  }
  const Loaded loaded = Load(*std::move(backend), "mamba-induction", 2);
  const auto decode = MeasureDecode(2, kNoTime, loaded.model.get());
  ENGRAM_CHECK_OK(decode.status());
  EXPECT_EQ(decode->steps, 5);
  EXPECT_EQ(loaded.model->states().free_slots(), 2);
}

// Else a model that runs ahead could not begin the next one's.
TEST(EngineSteps, FinishesWhatItHasBegunBesideAStepThatFails) {
  const Script script(50);
  ModelLimits limits;
  limits.slots = limits.max_logits_rows = 2;
  limits.max_batch_tokens = 16;
  ScriptedModel model(&script, limits);
  model.RunAhead();
  model.FailStep(3);
  EXPECT_EQ(MeasureDecode(2, kNoTime, &model).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_TRUE(MeasurePrefill(16, kNoTime, &model).ok());
  EXPECT_EQ(model.states().free_slots(), 2);
}

TEST(EngineSteps, EndsWhereKeysAndValuesDo) {
  const Loaded loaded = Load(Cpu(), "attention-induction", 2, size_t{1} << 18);
  const ModelInfo& info = loaded.model->info();
  const auto tokens_each = static_cast<int64_t>(
      info.kv_blocks / 2 * (info.kv_block_bytes / info.kv_bytes_per_token));
  const auto decode = MeasureDecode(2, absl::Hours(1), loaded.model.get());
  ENGRAM_CHECK_OK(decode.status());
  // Two are begun beside, three not counted.
  EXPECT_EQ(decode->steps, tokens_each - 2 - 3);
}

TEST(EngineSteps, EndsWhereSequencesDo) {
  // All slots could fill their positions, so that one alone has room for more.
  const Loaded loaded = Load(Cpu(), "attention-induction", 3);
  const int64_t positions = loaded.model->info().max_positions;
  ASSERT_GT(positions, 0);
  const auto decode = MeasureDecode(1, absl::Hours(1), loaded.model.get());
  ENGRAM_CHECK_OK(decode.status());
  EXPECT_EQ(decode->steps, positions - 2 - 3);
  const absl::Status status = MeasurePrefill(static_cast<int>(positions) + 1,
                                             kNoTime, loaded.model.get())
                                  .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(absl::StrCat("end at ", positions)));
}

TEST(EngineSteps, RefusesMoreSequencesThanKeysAndValuesHaveRoomFor) {
  const Loaded probe = Load(Cpu(), "attention-induction", 2);
  const Loaded loaded =
      Load(Cpu(), "attention-induction", 2, probe.model->info().kv_block_bytes);
  const absl::Status status =
      MeasureDecode(2, kNoTime, loaded.model.get()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--kv-memory"));
  EXPECT_EQ(loaded.model->states().free_slots(), 2);
}

TEST(EngineSteps, CopiesMoveBytes) {
  const auto backend = Cpu();
  const auto rate = MeasureCopyRate(size_t{1} << 20, backend.get());
  ENGRAM_CHECK_OK(rate.status());
  EXPECT_GT(*rate, 1e6);
}

}  // namespace
}  // namespace engram::client
