// What each kernel of a step is launched with, reads and writes of a device's
// memory, and computes, counted on the emulated device.
//
//   device_traffic SHAPE [option...]
//
//   --layers N      the first N (1), of a hybrid with one of attention at the
//                   end from 2 on
//   --width N, --vocabulary N
//                   less than published
//   --step ROWSxTOKENS[@BEFORE]
//                   a step of that many sequences that read as many tokens each
//                   (1x1), having read BEFORE others; several steps for several
//   --launches      kernels are launched and don't run, so that all that is
//                   known is what they are launched with
//   --json          for scripts/gpu-report, a kernel by its place in the
//   program
//
// A model of a published shape (model/random_model.h) in bfloat16.
#include <cuda_runtime.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/status.h"
#include "model/model.h"
#include "model/random_model.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/cuda_emulation/device/traffic.h"

extern const char __executable_start;  // the linker's

namespace engram {
namespace {

struct StepShape {
  int rows = 1;
  int tokens = 1;
  int before = 0;
};

struct Options {
  std::string shape;
  RandomModelCut cut = {.layers = 1};
  std::vector<StepShape> steps;
  bool launches_only = false;
  bool json = false;
};

int64_t BytesOf(int64_t sectors) { return sectors * emulation::kSectorBytes; }
double PerRequest(const emulation::Traffic& traffic) {
  return static_cast<double>(traffic.sectors) /
         static_cast<double>(std::max<int64_t>(traffic.requests, 1));
}

void Print(const emulation::KernelTraffic& kernel) {
  const emulation::Traffic& loads = kernel.loads;
  const emulation::Traffic& stores = kernel.stores;
  std::printf(
      "%6u x %-4u x %-4u %13ld %13ld %13ld %6.1f %12ld %12ld %6.1f %10ld "
      "%10ld\n",
      kernel.grid.x, kernel.grid.y, kernel.block.x,
      BytesOf(loads.distinct_sectors), BytesOf(loads.sectors), loads.bytes,
      PerRequest(loads), BytesOf(stores.sectors), stores.bytes,
      PerRequest(stores), kernel.matrix_steps, kernel.fused_adds);
}

void PrintTable(const std::vector<emulation::KernelTraffic>& kernels) {
  std::printf("%20s %13s %13s %13s %6s %12s %12s %6s %10s %10s\n",
              "grid x block", "bytes loaded", "by sectors", "asked for",
              "/warp", "stored", "asked for", "/warp", "mma", "fma");
  for (const emulation::KernelTraffic& kernel : kernels) Print(kernel);
}

void PrintJson(const StepShape& step, const ModelInfo& info,
               const std::vector<emulation::KernelTraffic>& kernels) {
  std::printf(R"({"rows": %d, "tokens": %d, "before": %d, "d_model": %ld, )"
              R"("vocabulary": %ld, "kernels": [)",
              step.rows, step.tokens, step.before, info.d_model,
              info.vocabulary_size);
  const char* separator = "";
  for (const emulation::KernelTraffic& kernel : kernels) {
    std::printf(
        R"(%s{"at": %ld, "grid": [%u, %u, %u], "threads": %u, "shared": %zu, )"
        R"("loaded": %ld, "stored": %ld, "matrix_steps": %ld, )"
        R"("fused_adds": %ld})",
        separator,
        static_cast<const char*>(kernel.kernel) - &__executable_start,
        kernel.grid.x, kernel.grid.y, kernel.grid.z, kernel.block.x,
        kernel.shared_bytes, BytesOf(kernel.loads.distinct_sectors),
        BytesOf(kernel.stores.distinct_sectors), kernel.matrix_steps,
        kernel.fused_adds);
    separator = ", ";
  }
  std::printf("]}");
}

// A step in which each of the slots reads as many tokens.
void Begin(const std::vector<int>& slots, int tokens, int vocabulary,
           Model* model) {
  const SamplingParameters greedy;
  std::vector<std::vector<int32_t>> ids;
  for (size_t row = 0; row < slots.size(); ++row) {
    ids.emplace_back();
    for (int token = 0; token < tokens; ++token) {
      // Different ones, which are read at different places.
      ids.back().push_back((static_cast<int>(row) * tokens + token) %
                           vocabulary);
    }
  }
  Batch batch;
  for (size_t row = 0; row < slots.size(); ++row) {
    batch.rows.push_back({.slot = slots[row],
                          .tokens = ids[row],
                          .wanted = Wanted::kToken,
                          .draw = {.parameters = &greedy}});
  }
  ENGRAM_CHECK_OK(model->Begin(batch));
}

std::vector<emulation::KernelTraffic> Watch(const Options& options,
                                            const StepShape& step,
                                            Backend* backend, Model* model) {
  std::vector<int> slots;
  for (int row = 0; row < step.rows; ++row) {
    slots.push_back(model->states().TryTake(step.before + step.tokens));
    ENGRAM_CHECK(slots.back() >= 0);
    ENGRAM_CHECK_OK(model->states().Clear(slots.back()));
  }
  const int vocabulary = static_cast<int>(model->info().vocabulary_size);
  if (step.before > 0) {
    Begin(slots, step.before, vocabulary, model);
    ENGRAM_CHECK_OK(model->Finish().status());
  }
  ENGRAM_CHECK_OK(backend->Synchronize());
  emulation::options().kernels_run = !options.launches_only;
  emulation::BeginTraffic();
  Begin(slots, step.tokens, vocabulary, model);
  if (options.launches_only) {
    ENGRAM_CHECK(cudaDeviceSynchronize() == cudaSuccess);
    return emulation::EndTraffic();
  }
  ENGRAM_CHECK_OK(model->Finish().status());
  for (const int slot : slots) model->states().Free(slot);
  return emulation::EndTraffic();
}

void Tell(const Options& options, const StepShape& step, Backend* backend,
          Model* model) {
  const auto kernels = Watch(options, step, backend, model);
  options.json ? PrintJson(step, model->info(), kernels) : PrintTable(kernels);
  std::fflush(stdout);
}

// Nobody can finish a step whose kernels have not run: a process ends with it.
void TellByAnother(const Options& options, const StepShape& step,
                   Backend* backend, Model* model) {
  const pid_t process = fork();
  ENGRAM_CHECK(process >= 0);
  if (process == 0) {
    Tell(options, step, backend, model);
    std::_Exit(0);
  }
  int status = 0;
  ENGRAM_CHECK(waitpid(process, &status, 0) == process && status == 0);
}

int Run(const Options& options) {
  const auto folder =
      RandomModel(options.shape, DataType::kBFloat16, options.cut);
  if (!folder.ok()) {
    std::fprintf(stderr, "device_traffic: %s\n",
                 std::string(folder.status().message()).c_str());
    return 2;
  }
  const auto backend = MakeCudaBackend();
  ENGRAM_CHECK_OK(backend.status());
  ModelLimits limits;
  limits.slots = 1;
  limits.max_batch_tokens = 1;
  for (const StepShape& step : options.steps) {
    limits.slots = std::max(limits.slots, step.rows);
    limits.max_batch_tokens =
        std::max(limits.max_batch_tokens,
                 step.rows * std::max(step.tokens, step.before));
  }
  limits.max_logits_rows = limits.slots;
  const auto model = (*folder)->LoadModel(backend->get(), limits, 0);
  ENGRAM_CHECK_OK(model.status());
  if (options.json) std::printf("[");
  const char* separator = "";
  for (const StepShape& step : options.steps) {
    if (options.json) std::printf("%s", separator);
    std::fflush(stdout);
    separator = ",\n";
    const auto tell = options.launches_only ? TellByAnother : Tell;
    tell(options, step, backend->get(), model->get());
  }
  if (options.json) std::printf("]\n");
  return 0;
}

bool Parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--launches") {
      options->launches_only = true;
    } else if (name == "--json") {
      options->json = true;
    } else if (name.substr(0, 2) != "--" && options->shape.empty()) {
      options->shape = name;
    } else if (++i == argc) {
      return false;
    } else if (name == "--layers") {
      options->cut.layers = std::atoi(argv[i]);
    } else if (name == "--width") {
      options->cut.d_model = std::atoi(argv[i]);
    } else if (name == "--vocabulary") {
      options->cut.vocabulary = std::atoi(argv[i]);
    } else if (name == "--step") {
      StepShape step;
      if (std::sscanf(argv[i], "%dx%d@%d", &step.rows, &step.tokens,
                      &step.before) < 2 ||
          step.rows < 1 || step.tokens < 1 || step.before < 0) {
        return false;
      }
      options->steps.push_back(step);
    } else {
      return false;
    }
  }
  if (options->steps.empty()) options->steps.emplace_back();
  return !options->shape.empty();
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  engram::Options options;
  if (!engram::Parse(argc, argv, &options)) {
    std::fprintf(stderr, "device_traffic: see the top of %s\n", __FILE__);
    return 2;
  }
  return engram::Run(options);
}
