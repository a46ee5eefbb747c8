#include "tests/device_facts/workload_rates.h"

#include <cuda_profiler_api.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "tests/device_facts/matrix_rate.h"
#include "tests/device_facts/milliseconds.h"
#include "tests/device_facts/rates.h"
#include "tests/device_facts/workloads.h"

namespace engram {

int TellWorkloads() {
  const double copy = CopyRate();
  const Workloads workloads(/*small=*/false);
  double least = 1;
  bool failed = copy <= 0;
  for (const Workload& workload : workloads.all()) {
    const float milliseconds =
        Milliseconds(10, [&] { return workload.begin(cudaStreamPerThread); });
    if (milliseconds <= 0 || copy <= 0) {
      std::printf("%s failed\n", workload.name.c_str());
      failed = true;
      continue;
    }
    const double share = workload.bytes / milliseconds / 1e9 / copy;
    std::printf("measured: %-44s %8.3f ms %6.1f %% of copies %7.1f TFLOP/s\n",
                workload.name.c_str(), milliseconds, 100 * share,
                workload.operations / milliseconds / 1e9);
    // A product's operations are none of an update.
    if (workload.operations == 0) least = std::min(least, share);
  }
  std::string reason;
  const double library = MatrixRate(2048, 10240, 2560, &reason);
  if (library > 0) {
    std::printf(
        "measured: prompt product of 2048 tokens by cuBLASLt %33.1f TFLOP/s\n",
        library);
  } else {
    std::printf("no cuBLASLt: %s\n", reason.c_str());
  }
  std::printf("updates move at least %.0f %% of %.2f TB/s\n", 100 * least,
              copy);
  return failed ? 1 : 0;
}

int RunWorkloadsOnce() {
  const Workloads workloads(/*small=*/false);
  if (cudaProfilerStart() != cudaSuccess) return 1;
  for (const Workload& workload : workloads.all()) {
    if (workload.begin(cudaStreamPerThread) != cudaSuccess ||
        cudaDeviceSynchronize() != cudaSuccess) {
      std::printf("%s failed\n", workload.name.c_str());
      return 1;
    }
    std::printf("counted: %.0f of %s\n", workload.bytes, workload.name.c_str());
  }
  return cudaProfilerStop() == cudaSuccess ? 0 : 1;
}

}  // namespace engram
