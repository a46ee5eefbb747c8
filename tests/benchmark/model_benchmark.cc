// Speed of whole steps of models on the CPU.
//
//   model_benchmark [Google Benchmark's flags] FOLDER...
//
// For every folder: decoding with 1, 8 and 32 rows and a prompt of 128 tokens,
// each with 1 and 2 threads. Every row draws a token: the best, or at
// temperature 0.8 with top_p 0.95.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "model/load_model.h"
#include "model/model.h"

namespace engram {
namespace {

constexpr int kSlots = 32;

struct Loaded {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
};

// One model at a time: large ones need not fit twice.
Model& Load(const std::string& folder, int threads) {
  static std::string loaded_key;
  static Loaded loaded;
  const std::string key = absl::StrCat(threads, " ", folder);
  if (key == loaded_key) return *loaded.model;
  loaded = {};
  loaded_key = key;
  loaded.backend = MakeBackend({BackendKind::kCpu, threads}).value();
  ModelLimits limits;
  limits.slots = kSlots;
  limits.max_batch_tokens = 128;
  limits.max_logits_rows = kSlots;
  limits.kv_bytes = size_t{64} << 20;
  auto model = LoadModel(folder, loaded.backend.get(), limits, 0);
  ENGRAM_CHECK_OK(model.status());
  loaded.model = *std::move(model);
  return *loaded.model;
}

void Step(benchmark::State& state, const std::string& folder) {
  const int rows = static_cast<int>(state.range(0));
  const int tokens = static_cast<int>(state.range(1));
  Model& model = Load(folder, static_cast<int>(state.range(2)));
  if (model.info().kv_blocks > 0) {
    state.SkipWithError("its sequences end");
    return;
  }
  SamplingParameters sampling;
  if (state.range(3) == 1) sampling = {.temperature = 0.8f, .top_p = 0.95f};
  const std::vector<int32_t> ids(tokens, 1);
  Batch batch;
  for (int row = 0; row < rows; ++row) {
    batch.rows.push_back({.slot = model.states().Take(),
                          .tokens = ids,
                          .wanted = Wanted::kToken,
                          .draw = {.parameters = &sampling}});
  }
  for (auto _ : state) {
    for (BatchRow& row : batch.rows) ++row.draw.index;
    ENGRAM_CHECK_OK(model.Begin(batch));
    benchmark::DoNotOptimize(model.Finish().value().rows.data());
  }
  for (const BatchRow& row : batch.rows) model.states().Free(row.slot);
  state.SetItemsProcessed(state.iterations() * rows * tokens);
}

void Register(const std::string& folder) {
  const std::string name =
      std::filesystem::path(folder + "/").parent_path().filename();
  auto* const steps = benchmark::RegisterBenchmark(
      name.c_str(), [folder](benchmark::State& state) { Step(state, folder); });
  steps->ArgNames({"rows", "tokens", "threads", "sampled"})->UseRealTime();
  for (const int64_t threads : {1, 2}) {
    steps->Args({1, 1, threads, 0})
        ->Args({8, 1, threads, 0})
        ->Args({32, 1, threads, 0})
        ->Args({32, 1, threads, 1})
        ->Args({1, 128, threads, 0});
  }
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (int i = 1; i < argc; ++i) engram::Register(argv[i]);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
