// The back end with several threads: no data race, and the same bits as with
// one thread.
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "tests/kernels/attention_test_case.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

// A token and its log-probability of each row; more rows than threads.
Floats RunOutcomes(Backend& backend) {
  constexpr int64_t kRows = 40, kIds = 700;
  ENGRAM_CHECK_OK(backend.ReserveSteps({.outcomes = kRows, .ids = kIds}));
  DeviceFloats logits(backend, RandomFloats(6, kRows * kIds));
  const SamplingParameters parameters = {.temperature = 0.8f, .top_p = 0.9f};
  std::vector<OutcomeRequest> requests(kRows);
  for (int64_t row = 0; row < kRows; ++row) {
    requests[row].draw = {.parameters = &parameters,
                          .index = static_cast<uint64_t>(row)};
    requests[row].alternatives = 1;
  }
  std::vector<Outcome> outcomes(kRows);
  backend.Outcomes({logits.data(), kIds}, kIds, requests,
                   absl::MakeSpan(outcomes));
  Floats results;
  for (const Outcome& outcome : outcomes) {
    results.push_back(static_cast<float>(outcome.token));
    results.push_back(outcome.log_probability);
  }
  return results;
}

std::shared_ptr<cpu::ThreadPool> Pool(int threads) {
  auto pool = MakeThreadPool(threads);
  ENGRAM_CHECK_OK(pool.status());
  return *std::move(pool);
}

// All operations that use threads, each large enough to be cut.
std::vector<Floats> RunAll(std::shared_ptr<cpu::ThreadPool> pool) {
  auto made = MakeBackend({.pool = std::move(pool)});
  ENGRAM_CHECK_OK(made.status());
  Backend& backend = **made;
  std::vector<Floats> results;

  const MatMulCase product(200, 128);
  for (const int64_t tokens : {1, 7, 130}) {
    results.push_back(product.Run(backend, RandomFloats(1, tokens * 128)));
  }

  const std::vector<SlotRow> rows = {{1, 0, 1}, {0, 1, 50}, {2, 51, 13}};
  const ConvCase conv(300, 4);
  Floats windows(3 * conv.WindowFloats());
  results.push_back(
      conv.Run(backend, rows, RandomFloats(2, 64 * 300), windows));
  results.push_back(windows);

  const ScanCase scan(300, 16, 64);
  Floats states(3 * scan.StateFloats());
  results.push_back(scan.Run(backend, rows, states));
  results.push_back(states);

  const SsdScanCase ssd_scan(6, 2, 40, 16, 64);
  Floats ssd_states(3 * ssd_scan.StateFloats());
  results.push_back(ssd_scan.Run(backend, rows, ssd_states));
  results.push_back(ssd_states);
  results.push_back(GatedNormCase(300, 2, 200).Run(backend));

  const ShiftMultiplyCase shift(300, 64, 64);
  Floats kept(3 * shift.StateFloats());
  results.push_back(shift.Run(backend, rows, kept));
  results.push_back(kept);

  const DiagonalScanCase diagonal_scan(300, 16, 64);
  Floats diagonal_states(3 * diagonal_scan.StateFloats());
  results.push_back(diagonal_scan.Run(backend, rows, diagonal_states));
  results.push_back(diagonal_states);

  const AttentionShape shape{8, 16, 8};
  AttentionSequence one(shape, 60, 70, {4, 1, 0}), other(shape, 63, 40, {2, 3});
  Floats blocks(5 * shape.BlockFloats());
  AttentionStep(backend, {{&one, 50}, {&other, 39}}, blocks);
  AttentionStep(backend, {{&other, 1}, {&one, 20}}, blocks);
  results.push_back(one.y);
  results.push_back(other.y);
  results.push_back(blocks);

  const int64_t tokens = 200;
  DeviceFloats residual(backend, RandomFloats(3, tokens * 300));
  DeviceFloats weight(backend, RandomFloats(4, 300));
  DeviceFloats normed(backend, Floats(tokens * 300));
  backend.Norm({NormKind::kRms, weight.data(), nullptr, 1e-5f}, tokens, 300,
               residual.data(), {normed.data(), 300});
  results.push_back(normed.ToHost());

  const auto table = PackFloats(backend, RandomFloats(5, 70 * 300), 70, 300);
  std::vector<int32_t> ids;
  for (int i = 0; i < tokens; ++i) ids.push_back(i % 70);
  backend.Embed(PrepareIds(backend, ids), *table, residual.data());
  results.push_back(residual.ToHost());
  results.push_back(RunOutcomes(backend));
  return results;
}

void ExpectSameResults(const std::vector<Floats>& results,
                       const std::vector<Floats>& expected) {
  ASSERT_EQ(results.size(), expected.size());
  for (size_t i = 0; i < results.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "result " << i);
    ExpectSameBits(results[i], expected[i]);
  }
}

TEST(BackendThreads, AnyNumberOfThreadsGivesTheSameBits) {
  const std::vector<Floats> expected = RunAll(Pool(1));
  for (const int threads : {2, 3}) {
    SCOPED_TRACE(testing::Message() << threads << " threads");
    for (int repetition = 0; repetition < 5; ++repetition) {
      ExpectSameResults(RunAll(Pool(threads)), expected);
    }
  }
}

TEST(BackendThreads, BackEndsThatShareThemAtOnceGiveTheSameBits) {
  const std::vector<Floats> expected = RunAll(Pool(1));
  const auto pool = Pool(3);
  std::vector<std::vector<Floats>> results(4);
  std::vector<std::thread> engines;
  for (std::vector<Floats>& result : results) {
    engines.emplace_back([&pool, &result] {
      for (int repetition = 0; repetition < 3; ++repetition) {
        result = RunAll(pool);
      }
    });
  }
  for (std::thread& engine : engines) engine.join();
  for (const std::vector<Floats>& result : results) {
    ExpectSameResults(result, expected);
  }
}

}  // namespace
}  // namespace engram
