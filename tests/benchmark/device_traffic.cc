// What each kernel of a step reads and writes of a device's memory, counted on
// the emulated device.
//
//   device_traffic [SHAPE [LAYERS [ROWS [TOKENS]]]]
//
// A model of a published shape (model/random_model.h) with its first LAYERS, in
// bfloat16; ROWS sequences of which each reads TOKENS tokens. A line per
// launch.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/status.h"
#include "model/model.h"
#include "model/random_model.h"
#include "tests/cuda_emulation/device/traffic.h"

namespace engram {
namespace {

int64_t BytesOf(int64_t sectors) { return sectors * emulation::kSectorBytes; }
double PerRequest(const emulation::Traffic& traffic) {
  return static_cast<double>(traffic.sectors) /
         static_cast<double>(std::max<int64_t>(traffic.requests, 1));
}

void Print(const emulation::KernelTraffic& kernel) {
  const emulation::Traffic& loads = kernel.loads;
  const emulation::Traffic& stores = kernel.stores;
  std::printf("%6u x %-4u x %-4u %13ld %13ld %13ld %6.1f %12ld %12ld %6.1f\n",
              kernel.grid.x, kernel.grid.y, kernel.block.x,
              BytesOf(loads.distinct_sectors), BytesOf(loads.sectors),
              loads.bytes, PerRequest(loads), BytesOf(stores.sectors),
              stores.bytes, PerRequest(stores));
}

void Step(int rows, int tokens, Model* model) {
  const std::vector<int32_t> ids(tokens, 1);
  const SamplingParameters greedy;
  Batch batch;
  for (int row = 0; row < rows; ++row) {
    const int slot = model->states().TryTake(2 * tokens);
    ENGRAM_CHECK(slot >= 0);
    ENGRAM_CHECK_OK(model->states().Clear(slot));
    batch.rows.push_back({.slot = slot,
                          .tokens = ids,
                          .wanted = Wanted::kToken,
                          .draw = {.parameters = &greedy}});
  }
  ENGRAM_CHECK_OK(model->Begin(batch));
  ENGRAM_CHECK_OK(model->Finish().status());
}

int Run(const std::string& shape, int64_t layers, int rows, int tokens) {
  const auto folder = RandomModel(shape, DataType::kBFloat16, layers);
  if (!folder.ok()) {
    std::fprintf(stderr, "device_traffic: %s\n",
                 std::string(folder.status().message()).c_str());
    return 2;
  }
  const auto backend = MakeCudaBackend();
  ENGRAM_CHECK_OK(backend.status());
  ModelLimits limits;
  limits.slots = rows;
  limits.max_batch_tokens = rows * tokens;
  limits.max_logits_rows = rows;
  const auto model = (*folder)->LoadModel(backend->get(), limits, 0);
  ENGRAM_CHECK_OK(model.status());
  ENGRAM_CHECK_OK((*backend)->Synchronize());
  emulation::BeginTraffic();
  Step(rows, tokens, model->get());
  std::printf("%20s %13s %13s %13s %6s %12s %12s %6s\n", "grid x block",
              "bytes loaded", "by sectors", "asked for", "/warp", "stored",
              "asked for", "/warp");
  for (const emulation::KernelTraffic& kernel : emulation::EndTraffic()) {
    Print(kernel);
  }
  return 0;
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  const auto number = [&](int place, int without) {
    return argc > place ? std::atoi(argv[place]) : without;
  };
  return engram::Run(argc > 1 ? argv[1] : "mamba-130m", number(2, 1),
                     number(3, 1), number(4, 1));
}
