// What the CUDA back end does beside its kernels, on an emulated device, which
// runs nothing before the host waits: what is waited for too late is seen.
#include "kernels/cuda/cuda_backend.h"

#include <cuda_runtime.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/device_status.h"
#include "kernels/status.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

using ::testing::_;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;

class CudaBackendTest : public ::testing::Test {
 protected:
  CudaBackendTest() {
    auto made = MakeCudaBackend();
    ENGRAM_CHECK_OK(made.status());
    backend_ = *std::move(made);
  }
  ~CudaBackendTest() override {
    backend_ = nullptr;
    emulation::ClearErrors();
  }

  Backend& backend() { return *backend_; }

  // Begins something that fails on the device.
  void BeginFailure() {
    DeviceFloats x(backend(), {1, 2});
    ENGRAM_CHECK_OK(backend().Synchronize());
    emulation::PlantError(1, cudaErrorIllegalAddress);
    backend().CopyRows({x.data(), 1}, {0}, 1, {x.data(), 1}, {1});
    // Before its memory goes.
    failure_ = backend().Synchronize();
  }
  const absl::Status& failure() const { return failure_; }

 private:
  std::unique_ptr<Backend> backend_;
  absl::Status failure_;
};

TEST_F(CudaBackendTest, AFailedDeviceIsToldByAllThatComesAfterIt) {
  auto buffer = *backend().Allocate(8);
  BeginFailure();
  EXPECT_EQ(failure().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(failure().message()),
              HasSubstr("cudaErrorIllegalAddress (700)"));
  float host[2] = {};
  EXPECT_EQ(backend().Synchronize(), failure());
  EXPECT_EQ(backend().CopyToHost(host, buffer->data(), 8), failure());
  EXPECT_EQ(backend().CopyFromHost(buffer->data(), host, 8), failure());
  EXPECT_EQ(backend().Copy(buffer->floats(), buffer->floats() + 1, 4),
            failure());
  EXPECT_EQ(backend().Zero(buffer->data(), 8), failure());
  EXPECT_EQ(backend().RecordEvent().status(), failure());
  EXPECT_EQ(backend().Allocate(8).status(), failure());
}

TEST_F(CudaBackendTest, AnEventTellsThatTheWorkBeforeItFailed) {
  auto buffer = *backend().Allocate(8);
  ASSERT_TRUE(backend().Synchronize().ok());
  emulation::PlantError(1, cudaErrorLaunchFailure);
  backend().CopyRows({buffer->data(), 1}, {0}, 1, {buffer->data(), 1}, {1});
  auto event = backend().RecordEvent();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ((*event)->Wait().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE((*event)->Reached());
}

TEST_F(CudaBackendTest, FlagsOfRowsAreThereOnceAnEventBehindThemIsReached) {
  DeviceFloats x(backend(), {1, std::numeric_limits<float>::infinity()});
  std::vector<uint8_t> finite(2, 7), later(2, 7);
  const StepRows& step =
      Prepare(backend(), std::vector<SlotRow>{{0, 0, 1}, {1, 1, 1}});
  backend().FiniteRows(step, {x.data(), 1}, 1, absl::MakeSpan(finite));
  auto event = backend().RecordEvent();
  ASSERT_TRUE(event.ok());
  backend().FiniteRows(step, {x.data(), 1}, 1, absl::MakeSpan(later));
  EXPECT_THAT(finite, Each(7));
  ASSERT_TRUE((*event)->Wait().ok());
  EXPECT_THAT(finite, ElementsAre(1, 0));
  EXPECT_THAT(later, Each(7));
  ASSERT_TRUE(backend().Synchronize().ok());
  EXPECT_THAT(later, ElementsAre(1, 0));
}

TEST_F(CudaBackendTest, FlagsOfManyStepsAndRowsNeedNoWaiting) {
  constexpr int kRows = 1500;
  Floats values(kRows, 1.0f);
  values[1499] = std::numeric_limits<float>::quiet_NaN();
  DeviceFloats x(backend(), values);
  std::vector<SlotRow> rows;
  for (int i = 0; i < kRows; ++i) rows.push_back({i, i, 1});
  const StepRows& step = Prepare(backend(), rows);
  std::vector<std::vector<uint8_t>> flags(7, std::vector<uint8_t>(kRows, 7));
  for (std::vector<uint8_t>& finite : flags) {
    backend().FiniteRows(step, {x.data(), 1}, 1, absl::MakeSpan(finite));
  }
  ASSERT_TRUE(backend().Synchronize().ok());
  std::vector<uint8_t> expected(kRows, 1);
  expected[1499] = 0;
  EXPECT_THAT(flags, Each(expected));
}

TEST_F(CudaBackendTest, EachOfManyStepsHasItsOwnRows) {
  const auto table = PackFloats(backend(), {10, 11, 12, 13, 14}, 5, 1);
  DeviceFloats y(backend(), Floats(5));
  for (int32_t id = 0; id < 5; ++id) {
    backend().Embed(PrepareIds(backend(), {id}), *table, y.data() + id);
  }
  EXPECT_THAT(y.ToHost(), ElementsAre(10, 11, 12, 13, 14));
}

// --- Steps that follow.

// A draw of the best of `ids` logits, whose sequence ends at `stop_id`.
TokenDraw Greedy(const std::vector<int32_t>& stop_ids) {
  static const SamplingParameters* const greedy = new SamplingParameters();
  TokenDraw draw;
  draw.parameters = greedy;
  draw.stop_ids = stop_ids;
  return draw;
}

TEST_F(CudaBackendTest, RowsThatFollowFeedWhatWasDrawnBeforeTheHostKnowsIt) {
  ENGRAM_CHECK_OK(backend().ReserveSteps(
      {.rows = 3, .tokens = 3, .outcomes = 3, .ids = 4}));
  const auto table = PackFloats(backend(), {10, 11, 12, 13}, 4, 1);
  DeviceFloats logits(backend(), {0, 0, 3, 0,  //
                                  0, 5, 0, 0,  //
                                  0, 0, 0, 7});
  DeviceFloats later(backend(), {0, 0, 3, 6,  //
                                 0, 5, 0, 0,  //
                                 0, 0, 7, 6});
  DeviceFloats fed(backend(), Floats(3, -1.0f));
  DeviceFloats kept(backend(), {20, 21, 22, 23, 24});
  const std::vector<int32_t> stop_ids = {1};
  std::vector<OutcomeRequest> requests(3);
  for (OutcomeRequest& request : requests) request.draw = Greedy(stop_ids);
  std::vector<Outcome> drawn(3), after(3);
  ENGRAM_CHECK_OK(backend().Synchronize());
  const int64_t waits = emulation::counts().waits;
  const int64_t kernels = emulation::counts().kernels;

  backend().Outcomes({logits.data(), 4}, 4, requests, absl::MakeSpan(drawn));
  auto told = backend().RecordEvent();
  // In another order than they were drawn in; the second row stops.
  std::vector<Row> rows(3);
  const int follows[] = {2, 1, 0};
  for (int i = 0; i < 3; ++i) {
    rows[i] = {.slot_in = i, .slot_out = i, .tokens = 1, .follows = follows[i]};
  }
  rows[1].slot_out = 3;
  const StepRows& step = backend().PrepareStep(rows, {}, {0, 0, 0});
  backend().Embed(step, *table, fed.data());
  backend().KeepLastTokens(step, {fed.data(), 1}, 1, {kept.data(), 1});
  // Only what is fed is penalised, and so much that another is the best.
  const SamplingParameters penalised = {.repetition_penalty = 100};
  const TokenSet seen(4);
  for (int i = 0; i < 3; ++i) {
    requests[i].draw.parameters = &penalised;
    requests[i].draw.seen = &seen;
    requests[i].draw.follower = i;
  }
  backend().Outcomes({later.data(), 4}, 4, requests, absl::MakeSpan(after));
  EXPECT_EQ(emulation::counts().waits, waits);
  EXPECT_EQ(emulation::counts().kernels, kernels) << "nothing has run";

  ASSERT_TRUE((*told)->Wait().ok());
  EXPECT_EQ(emulation::counts().kernels, kernels + 1) << "nor does it now";
  EXPECT_THAT(drawn,
              ElementsAre(Field(&Outcome::token, 2), Field(&Outcome::token, 1),
                          Field(&Outcome::token, 3)));
  EXPECT_THAT(drawn, ElementsAre(Field(&Outcome::stops, false),
                                 Field(&Outcome::stops, true),
                                 Field(&Outcome::stops, false)));
  ASSERT_TRUE(backend().Synchronize().ok());
  EXPECT_THAT(fed.ToHost(), ElementsAre(13, _, 12));
  EXPECT_THAT(kept.ToHost(), ElementsAre(13, 21, 12, 21, 24));
  EXPECT_THAT(after,
              ElementsAre(Field(&Outcome::token, 2), Field(&Outcome::token, -1),
                          Field(&Outcome::token, 3)));
  EXPECT_TRUE(after[1].stops) << "who followed it would feed nothing either";
}

TEST_F(CudaBackendTest, OutcomesAreToldByTheEventsBehindThem) {
  ENGRAM_CHECK_OK(backend().ReserveSteps({.outcomes = 1, .ids = 3}));
  DeviceFloats logits(backend(), {0, 1, 0, 0, 0, 1, 1, 0, 0});
  const std::vector<OutcomeRequest> request = {{.draw = Greedy({})}};
  ENGRAM_CHECK_OK(backend().Synchronize());
  const int64_t waits = emulation::counts().waits;
  std::vector<Outcome> outcomes(3);
  std::vector<std::unique_ptr<DeviceEvent>> told;
  for (int i = 0; i < 2; ++i) {
    backend().Outcomes({logits.data() + 3 * i, 3}, 3, request,
                       absl::MakeSpan(outcomes).subspan(i, 1));
    told.push_back(*backend().RecordEvent());
  }
  EXPECT_EQ(emulation::counts().waits, waits);
  ASSERT_TRUE(told[0]->Wait().ok());
  EXPECT_EQ(outcomes[0].token, 1);
  EXPECT_EQ(outcomes[1].token, -1);
  EXPECT_EQ(emulation::counts().waits, waits + 1);
  // There is room for two steps: this one needs none of the first's.
  backend().Outcomes({logits.data() + 6, 3}, 3, request,
                     absl::MakeSpan(outcomes).subspan(2, 1));
  EXPECT_EQ(emulation::counts().waits, waits + 1);
  EXPECT_EQ(outcomes[1].token, -1);
  ASSERT_TRUE(told[1]->Wait().ok());
  EXPECT_EQ(outcomes[1].token, 2);
  EXPECT_EQ(outcomes[2].token, -1);
  ASSERT_TRUE(backend().Synchronize().ok());
  EXPECT_EQ(outcomes[2].token, 0);
}

TEST_F(CudaBackendTest, OutcomesOfMoreStepsThanThereIsRoomForAreToldAll) {
  ENGRAM_CHECK_OK(backend().ReserveSteps({.outcomes = 1, .ids = 3}));
  DeviceFloats logits(backend(), {0, 1, 0, 0, 0, 1, 1, 0, 0});
  const std::vector<OutcomeRequest> request = {{.draw = Greedy({})}};
  std::vector<Outcome> outcomes(9);
  for (int i = 0; i < 9; ++i) {
    backend().Outcomes({logits.data() + i % 3 * 3, 3}, 3, request,
                       absl::MakeSpan(outcomes).subspan(i, 1));
  }
  ASSERT_TRUE(backend().Synchronize().ok());
  for (int i = 0; i < 9; ++i) EXPECT_EQ(outcomes[i].token, (i + 1) % 3) << i;
}

// A device that has done something twice for a key does it again without being
// told how, for the rows of the new step.
TEST_F(CudaBackendTest, WhatIsReplayedIsRecordedOnceAndSeesTheStepsRows) {
  const auto table = PackFloats(backend(), {10, 11, 12, 13, 14}, 5, 1);
  DeviceFloats y(backend(), Floats(10));
  int runs = 0;
  for (int32_t id = 0; id < 5; ++id) {
    const StepRows& step = PrepareIds(backend(), {id, 4});
    DeviceFloats step_y(backend(), Floats(2));
    backend().Replay(2, [&] {
      ++runs;
      backend().Embed(step, *table, y.data());
    });
    ENGRAM_CHECK_OK(backend().Copy(step_y.data(), y.data(), 8));
    EXPECT_THAT(step_y.ToHost(), ElementsAre(10.0f + id, 14));
  }
  EXPECT_EQ(runs, 2);
}

TEST_F(CudaBackendTest, StepsOfATokenARowArePaddedWhereThereIsRoom) {
  const auto padded = [&](int rows, int64_t most, int tokens_of_first = 1) {
    std::vector<Row> all(rows);
    for (int i = 0; i < rows; ++i) {
      all[i] = {.slot_in = i, .slot_out = i, .tokens = 1};
    }
    all[0].tokens = tokens_of_first;
    const StepRows& step = backend().PrepareStep(all, {}, {}, most);
    EXPECT_EQ(step.rows().size(), rows + step.padding());
    return step.padding();
  };
  EXPECT_EQ(padded(5, 100), 3);
  EXPECT_EQ(padded(8, 100), 0);
  EXPECT_EQ(padded(9, 12), 3) << "there is room for 12";
  EXPECT_EQ(padded(9, 9), 0);
  EXPECT_EQ(padded(9, 0), 0);
  EXPECT_EQ(padded(5, 100, 2), 0) << "a prompt";
  EXPECT_EQ(padded(200, 1000), 56);
  EXPECT_EQ(padded(257, 1000), 0) << "there is no larger bucket";
}

TEST_F(CudaBackendTest, PaddingIsNeutralInEveryTable) {
  const auto table = PackFloats(backend(), {10, 11, 12, 13, 14}, 5, 1);
  DeviceFloats residual(backend(), Floats(4, -1.0f));
  DeviceFloats positions(backend(), {100, 200, 300, 400});
  DeviceFloats kept(backend(), {20, 21, 22, 23});
  // What steps before have left is in all copies of the table: a fifth row
  // whose last token is in the place of the padding.
  std::vector<Row> rows(5);
  for (int i = 0; i < 5; ++i) {
    rows[i] = {.slot_in = i, .slot_out = i, .tokens = i < 4 ? 0 : 4};
  }
  for (int i = 0; i < 2; ++i) {
    backend().Embed(backend().PrepareStep(rows, {}, {4, 3, 2, 1}), *table,
                    residual.data());
  }
  rows.resize(4);
  for (int i = 0; i < 4; ++i) {
    rows[i] = {.slot_in = i, .slot_out = i, .tokens = 1, .position = 1};
  }
  rows.resize(3);
  const StepRows& step = backend().PrepareStep(rows, {}, {1, 2, 3}, 4);
  ASSERT_EQ(step.padding(), 1);
  backend().Embed(step, *table, residual.data());
  backend().AddPositions(step, positions.data(), 1, {residual.data(), 1});
  backend().KeepLastTokens(step, {residual.data(), 1}, 1, {kept.data(), 1});
  std::vector<uint8_t> finite(4, 7);
  backend().FiniteRows(step, {residual.data(), 1}, 1, absl::MakeSpan(finite));
  EXPECT_THAT(residual.ToHost(), ElementsAre(211, 212, 213, 10));
  EXPECT_THAT(kept.ToHost(), ElementsAre(211, 212, 213, 23));
  EXPECT_THAT(finite, Each(1));
}

TEST_F(CudaBackendTest, StepsAboveTheLargestBucketAreNotRecorded) {
  const auto table = PackFloats(backend(), {10, 11, 12, 13, 14}, 5, 1);
  DeviceFloats y(backend(), Floats(300));
  for (int i = 0; i < 3; ++i) {
    const StepRows& step = PrepareIds(backend(), std::vector<int32_t>(300, i));
    backend().Replay(300, [&] { backend().Embed(step, *table, y.data()); });
    EXPECT_THAT(y.ToHost(), Each(10.0f + i));
  }
  EXPECT_EQ(backend().recordings().count, 0);
}

TEST_F(CudaBackendTest, KeysAreReplayedApart) {
  const auto table = PackFloats(backend(), {10, 11}, 2, 1);
  DeviceFloats y(backend(), Floats(2));
  const StepRows& step = PrepareIds(backend(), {1});
  for (int i = 0; i < 3; ++i) {
    ENGRAM_CHECK_OK(backend().Zero(y.data(), 2 * sizeof(float)));
    for (const uint64_t key : {0, 1}) {
      backend().Replay(key,
                       [&] { backend().Embed(step, *table, y.data() + key); });
    }
  }
  EXPECT_THAT(y.ToHost(), ElementsAre(11, 11));
}

TEST_F(CudaBackendTest, AStepLargerThanAllBeforeItMovesWhatIsReplayed) {
  const auto table = PackFloats(backend(), {10, 11, 12}, 3, 1);
  const std::vector<int32_t> many(60000, 2);
  DeviceFloats y(backend(), Floats(many.size()));
  int runs = 0;
  const auto replay = [&](int32_t id) {
    const StepRows& step = PrepareIds(backend(), {id});
    backend().Replay(1, [&] {
      ++runs;
      backend().Embed(step, *table, y.data());
    });
    return y.ToHost()[0];
  };
  for (const int32_t id : {0, 1, 0}) EXPECT_EQ(replay(id), 10.0f + id);
  EXPECT_EQ(runs, 2);
  backend().Embed(PrepareIds(backend(), many), *table, y.data());
  EXPECT_THAT(y.ToHost(), Each(12.0f));
  for (const int32_t id : {1, 0, 1}) EXPECT_EQ(replay(id), 10.0f + id);
  EXPECT_EQ(runs, 4);
}

TEST(NoDevice, EveryCauseIsASentenceWithSomethingToDo) {
  for (const auto& [code, words] : std::vector<std::pair<int, std::string>>{
           {35, "no NVIDIA driver"},
           {34, "stub of libcuda"},
           {100, "CUDA_VISIBLE_DEVICES"},
           {803, "different versions"},
           {804, "compat"},
           {999, "dmesg"},
           {2, "cudaErrorMemoryAllocation"}}) {
    const absl::Status status = cuda::NoDevice(static_cast<cudaError_t>(code));
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    const std::string message(status.message());
    EXPECT_THAT(message, HasSubstr(words));
    EXPECT_THAT(message, HasSubstr("use --backend=cpu"));
  }
}

}  // namespace
}  // namespace engram
