// What OutcomeKernels answers beside what tests/kernels/outcomes_test.cc asks
// of every back end: whole batches of rows of all kinds as on the CPU, large
// vocabularies, and requests that do not fit into one upload.
#include "kernels/cuda/outcomes.h"

#include <cuda_runtime.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_queue.h"
#include "kernels/cuda/device_status.h"
#include "kernels/status.h"
#include "tests/kernels/sampling_test_case.h"
#include "tests/support/plain_sampler.h"

namespace engram::cuda {
namespace {

using Requests = std::vector<OutcomeRequest>;

class OutcomeKernelsTest : public ::testing::Test {
 protected:
  OutcomeKernelsTest() {
    auto cpu = MakeBackend({BackendKind::kCpu, 1});
    ENGRAM_CHECK_OK(cpu.status());
    cpu_ = *std::move(cpu);
  }

  absl::Status TryRun(const Logits& logits, int64_t ids,
                      const Requests& requests,
                      std::vector<Outcome>* outcomes) {
    const auto rows = static_cast<int64_t>(requests.size());
    bool moved = false;
    ENGRAM_CHECK_OK(upload_.Reserve(/*row_bytes=*/0,
                                    OutcomeKernels::RequestBytes(rows, ids),
                                    /*stream=*/nullptr, &moved));
    ENGRAM_CHECK_OK(kernels_.Reserve(rows, ids));
    const size_t bytes = logits.size() * sizeof(float);
    auto memory = AllocateDeviceMemory(bytes);
    ENGRAM_CHECK_OK(memory.status());
    ENGRAM_CHECK(cudaMemcpy((*memory)->data(), logits.data(), bytes,
                            cudaMemcpyHostToDevice) == cudaSuccess);
    const int64_t stride = requests.empty()
                               ? ids
                               : static_cast<int64_t>(logits.size()) /
                                     static_cast<int64_t>(requests.size());
    outcomes->resize(requests.size());
    auto queue = DeviceQueue::Make(0);
    ENGRAM_CHECK_OK(queue.status());
    kernels_.Begin(queue->get(), {}, /*row_bytes=*/0,
                   {(*memory)->data(), stride}, ids, requests,
                   absl::MakeSpan(*outcomes));
    return (*queue)->Synchronize();
  }

  // Of rows one after another.
  std::vector<Outcome> Run(const Logits& logits, int64_t ids,
                           const Requests& requests) {
    std::vector<Outcome> outcomes;
    ENGRAM_CHECK_OK(TryRun(logits, ids, requests, &outcomes));
    return outcomes;
  }

  std::vector<Outcome> RunOnCpu(const Logits& logits, int64_t ids,
                                const Requests& requests) {
    ENGRAM_CHECK_OK(cpu_->ReserveSteps(
        {.outcomes = static_cast<int64_t>(requests.size()), .ids = ids}));
    std::vector<Outcome> outcomes(requests.size());
    cpu_->Outcomes({logits.data(), ids}, ids, requests,
                   absl::MakeSpan(outcomes));
    return outcomes;
  }

  void ExpectAsOnCpu(const Logits& logits, int64_t ids,
                     const Requests& requests) {
    const std::vector<Outcome> outcomes = Run(logits, ids, requests);
    const std::vector<Outcome> expected = RunOnCpu(logits, ids, requests);
    for (size_t row = 0; row < requests.size(); ++row) {
      SCOPED_TRACE(::testing::Message() << "row " << row << " of " << ids);
      ExpectEqual(outcomes[row], expected[row]);
      if (::testing::Test::HasFailure()) return;
    }
  }

  static void ExpectNear(float told, float expected) {
    // Beside an infinite logit no other has a probability, nor has it one.
    if (std::isnan(expected) || std::isinf(expected)) {
      EXPECT_EQ(std::isnan(told), std::isnan(expected));
      EXPECT_EQ(std::isinf(told), std::isinf(expected));
      return;
    }
    EXPECT_NEAR(told, expected, 1e-6 * (1 + std::fabs(expected)));
  }

  static void ExpectEqual(const Outcome& outcome, const Outcome& expected) {
    EXPECT_EQ(outcome.finite, expected.finite);
    EXPECT_EQ(outcome.token, expected.token);
    EXPECT_EQ(outcome.stops, expected.stops);
    ExpectNear(outcome.log_probability, expected.log_probability);
    ASSERT_EQ(outcome.top.size(), expected.top.size());
    for (size_t i = 0; i < expected.top.size(); ++i) {
      EXPECT_EQ(outcome.top[i].id, expected.top[i].id);
      ExpectNear(outcome.top[i].value, expected.top[i].value);
    }
  }

 private:
  StepUpload upload_;
  OutcomeKernels kernels_{&upload_};
  std::unique_ptr<Backend> cpu_;
};

// Draws, and what beside them is asked for in a way that differs by row.
class Rows {
 public:
  Rows(int64_t ids, unsigned rows, unsigned first_seed) : ids_(ids) {
    for (unsigned row = 0; row < rows; ++row) {
      draws_.push_back(std::make_unique<RandomDraw>(first_seed + row, ids));
      const RandomDraw& draw = *draws_.back();
      logits_.insert(logits_.end(), draw.logits.begin(), draw.logits.end());
      OutcomeRequest request;
      if (row % 8 != 0) request = draw.Request(row);
      if (row % 3 == 0) request.scored = static_cast<int32_t>(row % ids);
      if (row % 4 == 1) request.alternatives = static_cast<int32_t>(row % 37);
      requests_.push_back(request);
    }
  }

  int64_t ids() const { return ids_; }
  const Logits& logits() const { return logits_; }
  Requests& requests() { return requests_; }
  RandomDraw& draw(size_t row) { return *draws_[row]; }

 private:
  const int64_t ids_;
  std::vector<std::unique_ptr<RandomDraw>> draws_;
  Logits logits_;
  Requests requests_;
};

TEST_F(OutcomeKernelsTest, AnswersTwoThousandRowsAsTheCpuDoes) {
  unsigned seed = 0;
  for (const int64_t ids : {1, 5, 33, 128, 300, 1031, 4099, 5000}) {
    constexpr unsigned kRows = 250;
    Rows rows(ids, kRows, seed);
    seed += kRows;
    ExpectAsOnCpu(rows.logits(), ids, rows.requests());
  }
}

TEST_F(OutcomeKernelsTest, DrawsWhatThePlainSamplerDraws) {
  Rows rows(700, 200, 5000);
  const std::vector<Outcome> outcomes =
      Run(rows.logits(), rows.ids(), rows.requests());
  for (size_t row = 0; row < outcomes.size(); ++row) {
    const TokenDraw& draw = rows.requests()[row].draw;
    if (draw.parameters == nullptr) continue;
    ASSERT_EQ(outcomes[row].token, PlainSample(rows.draw(row).logits, draw))
        << row;
  }
}

TEST_F(OutcomeKernelsTest, AnswersRowsOfLargeVocabularies) {
  for (const int64_t ids : {50280, 151937}) {
    Rows rows(ids, 12, static_cast<unsigned>(ids));
    ExpectAsOnCpu(rows.logits(), ids, rows.requests());
  }
}

// Logits as models make them: of no two ids the same, and all finite.
TEST_F(OutcomeKernelsTest, DrawsFromLargeVocabulariesAsTheCpuDoes) {
  constexpr int64_t kIds = 50280;
  constexpr int64_t kRows = 8;
  const std::vector<SamplingParameters> parameters = {
      {},
      {.temperature = 1},
      {.temperature = 0.8f, .top_p = 0.95f},
      {.temperature = 0.8f, .top_k = 40},
      {.temperature = 1.2f, .top_k = 5000, .top_p = 0.999f, .min_p = 1e-4f},
      {.temperature = 8, .top_p = 0.9f},
  };
  const Logits logits = RandomLogits(kRows * kIds, 17);
  for (const SamplingParameters& one : parameters) {
    Requests requests;
    for (uint64_t row = 0; row < kRows; ++row) {
      requests.push_back({.draw = DrawOf(one, row), .alternatives = 5});
    }
    ExpectAsOnCpu(logits, kIds, requests);
  }
}

// So that a cut falls among hundreds of ids with scores that differ little, or
// not at all.
TEST_F(OutcomeKernelsTest, CutsWhereScoresCrowd) {
  constexpr int64_t kIds = 9000;
  Logits logits;
  Requests requests;
  std::vector<SamplingParameters> parameters;
  for (const float step : {0.0f, 1e-6f, 1e-5f}) {
    for (const float top_p : {0.001f, 0.3f, 0.999f}) {
      for (const int32_t top_k : {0, 1, 777, 8999}) {
        parameters.push_back(
            {.temperature = 50, .top_k = top_k, .top_p = top_p});
        // Neither ascending nor descending.
        for (int64_t id = 0; id < kIds; ++id) {
          logits.push_back(step * static_cast<float>(id * 7919 % 4501));
        }
      }
    }
  }
  for (size_t row = 0; row < parameters.size(); ++row) {
    requests.push_back({.draw = DrawOf(parameters[row], row),
                        .alternatives = static_cast<int32_t>(row * 100)});
  }
  ExpectAsOnCpu(logits, kIds, requests);
}

TEST_F(OutcomeKernelsTest, AnswersInPartsWhereListsAreLong) {
  constexpr int64_t kIds = 3000;
  Rows rows(kIds, 40, 9000);
  for (size_t row = 0; row < rows.requests().size(); ++row) {
    RandomDraw& draw = rows.draw(row);
    draw.parameters.presence_penalty = 0.5f;
    for (int32_t id = 0; id < kIds; ++id) {
      draw.generated[id] = 1 + id % 3;
      draw.parameters.logit_bias[id] = 0.01f * static_cast<float>(id % 50);
    }
    rows.requests()[row] = draw.Request(row);
    rows.requests()[row].alternatives = row % 2 == 0 ? kIds : 3;
  }
  ExpectAsOnCpu(rows.logits(), kIds, rows.requests());
}

TEST_F(OutcomeKernelsTest, RefusesStopIdsThatHaveNoRoom) {
  const SamplingParameters greedy;
  OutcomeRequest request = {.draw = DrawOf(greedy)};
  const std::vector<int32_t> stop_ids(100000, 1);
  request.draw.stop_ids = stop_ids;
  std::vector<Outcome> outcomes;
  const absl::Status status = TryRun({0, 1}, 2, {request}, &outcomes);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("100000 stop ids"));
  EXPECT_FALSE(cuda::DeviceIsLost());
}

TEST_F(OutcomeKernelsTest, StopsAtAnyOfManyIds) {
  const SamplingParameters greedy;
  std::vector<int32_t> stop_ids(900);
  std::iota(stop_ids.begin(), stop_ids.end(), 100);
  Logits logits;
  Requests requests;
  for (const int32_t best : {99, 100, 517, 999, 1000}) {
    Logits row(1200, 0);
    row[best] = 1;
    logits.insert(logits.end(), row.begin(), row.end());
    requests.push_back({.draw = DrawOf(greedy)});
    requests.back().draw.stop_ids = stop_ids;
  }
  std::vector<bool> stops;
  for (const Outcome& outcome : Run(logits, 1200, requests)) {
    stops.push_back(outcome.stops);
  }
  EXPECT_THAT(stops, ::testing::ElementsAre(false, true, true, true, false));
}

TEST_F(OutcomeKernelsTest, AnswersNothingWhereNothingIsAsked) {
  EXPECT_TRUE(Run({0, 1}, 2, {}).empty());
}

// What was reserved for one shape serves a smaller one, and a larger one after
// it was reserved too.
TEST_F(OutcomeKernelsTest, ServesShapesThatComeOneAfterAnother) {
  for (const int64_t ids : {300, 40, 2000, 7}) {
    Rows rows(ids, static_cast<unsigned>(2000 / ids), 100);
    ExpectAsOnCpu(rows.logits(), ids, rows.requests());
  }
}

}  // namespace
}  // namespace engram::cuda
