#include "tests/device_facts/profiled_step.h"

#include <cuda_profiler_api.h>

#include <cstdint>
#include <cstdio>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "model/random_model.h"
#include "tools/status/early_return.h"

namespace engram {
namespace {

// Layers beyond these do the same again.
constexpr int64_t kLayers = 2;

absl::Status Step(const std::string& shape, int rows, int tokens) {
  BackendOptions options;
  options.kind = BackendKind::kCuda;
  ENGRAM_ASSIGN_OR_RETURN(const auto backend, MakeBackend(options));
  ENGRAM_ASSIGN_OR_RETURN(
      const auto folder,
      RandomModel(shape, DataType::kBFloat16, {.layers = kLayers}));
  ModelLimits limits;
  limits.slots = limits.max_logits_rows = rows;
  limits.max_batch_tokens = rows * tokens;
  limits.kv_bytes = size_t{1} << 30;
  ENGRAM_ASSIGN_OR_RETURN(const auto model,
                          folder->LoadModel(backend.get(), limits, 0));
  const SamplingParameters greedy;
  std::vector<int32_t> prompt(tokens);
  for (int i = 0; i < tokens; ++i) prompt[i] = 1 + i * 7 % 1000;
  Batch batch;
  for (int i = 0; i < rows; ++i) {
    BatchRow row;
    row.slot = model->states().TryTake(tokens);
    if (row.slot < 0) return absl::ResourceExhaustedError("no slot is free");
    ENGRAM_RETURN_IF_ERROR(model->states().Clear(row.slot));
    row.tokens = prompt;
    row.wanted = Wanted::kToken;
    row.draw.parameters = &greedy;
    batch.rows.push_back(row);
  }
  ENGRAM_RETURN_IF_ERROR(backend->Synchronize());
  cudaProfilerStart();
  ENGRAM_RETURN_IF_ERROR(model->Begin(batch));
  ENGRAM_RETURN_IF_ERROR(model->Finish().status());
  ENGRAM_RETURN_IF_ERROR(backend->Synchronize());
  cudaProfilerStop();
  return absl::OkStatus();
}

}  // namespace

int RunStepOnce(const std::vector<std::string>& arguments) {
  int rows = 0, tokens = 0;
  if (arguments.size() != 3 || !absl::SimpleAtoi(arguments[1], &rows) ||
      !absl::SimpleAtoi(arguments[2], &tokens) || rows < 1 || tokens < 1) {
    std::printf("a step is SHAPE ROWS TOKENS\n");
    return 1;
  }
  const absl::Status status = Step(arguments[0], rows, tokens);
  if (status.ok()) return 0;
  std::printf("%s\n", status.ToString().c_str());
  return 1;
}

}  // namespace engram
