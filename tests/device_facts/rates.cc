#include "tests/device_facts/rates.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>

#include "tests/device_facts/empty_kernel.h"
#include "tests/device_facts/latencies.h"
#include "tests/device_facts/matrix_rate.h"
#include "tests/device_facts/milliseconds.h"

namespace engram {
namespace {

// Microseconds of one of 1,000 empty kernels in a graph.
double EmptyKernelTime(bool overlaps) {
  constexpr int kCount = 1000;
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  if (LaunchEmptyKernel(cudaStreamPerThread, overlaps) != cudaSuccess ||
      cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) !=
          cudaSuccess ||
      cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) !=
          cudaSuccess) {
    return 0;
  }
  for (int i = 0; i < kCount; ++i) {
    if (LaunchEmptyKernel(stream, overlaps) != cudaSuccess) return 0;
  }
  if (cudaStreamEndCapture(stream, &graph) != cudaSuccess ||
      cudaGraphInstantiate(&ready, graph, 0) != cudaSuccess) {
    return 0;
  }
  const float milliseconds = Milliseconds(
      3, [&] { return cudaGraphLaunch(ready, cudaStreamPerThread); });
  return milliseconds > 0 ? 1000.0 * milliseconds / kCount : 0;
}

}  // namespace

double CopyRate() {
  size_t free = 0, all = 0;
  if (cudaMemGetInfo(&free, &all) != cudaSuccess) return 0;
  const size_t bytes = std::min<size_t>(size_t{4} << 30, free / 3);
  void *from = nullptr, *to = nullptr;
  if (cudaMalloc(&from, bytes) != cudaSuccess ||
      cudaMalloc(&to, bytes) != cudaSuccess) {
    return 0;
  }
  const float milliseconds = Milliseconds(5, [&] {
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice,
                           cudaStreamPerThread);
  });
  cudaFree(from);
  cudaFree(to);
  return milliseconds > 0 ? 2.0 * bytes / milliseconds / 1e9 : 0;
}

int TellRates() {
  const double copy = CopyRate();
  std::printf("copy, read and written: %.2f TB/s\n", copy);
  const double alone = EmptyKernelTime(false);
  const double overlapping = EmptyKernelTime(true);
  std::printf("an empty kernel in a graph: %.2f us, %.2f overlapping\n", alone,
              overlapping);
  const double mma = MmaCycles(), barrier = BarrierCycles();
  std::printf("a dependent mma: %.1f cycles; a barrier of 256 threads: %.1f\n",
              mma, barrier);
  std::string reason;
  const double matrix = MatrixRate(8192, 8192, 8192, &reason);
  if (reason.empty()) {
    std::printf("products of 8192 in bfloat16 by cuBLASLt: %.0f TFLOP/s\n",
                matrix);
  } else {
    std::printf("no matrix rate: %s\n", reason.c_str());
  }
  std::printf(
      "copies %.2f TB/s, matrices %.0f TFLOP/s, a kernel %.2f us (%.2f), mma "
      "%.0f cycles, barrier %.0f\n",
      copy, matrix, alone, overlapping, mma, barrier);
  return copy > 0 && alone > 0 && overlapping > 0 && mma > 0 && barrier > 0 ? 0
                                                                            : 1;
}

}  // namespace engram
