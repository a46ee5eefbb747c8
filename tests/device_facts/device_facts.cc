// What a card says of itself and of our kernels, and what it can do at best.
//
//   device-facts count PROGRAM    pieces of device code in the program's file
//   device-facts kernels PROGRAM  the device, and each kernel as it was loaded
//   device-facts rates            copies, matrix products, what a kernel costs
//
// The last line is the result in short. Ends with 0; 1 if something failed, or
// a kernel has local memory; 2 after wrong use; 77 without a device.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "kernels/cuda/device_status.h"
#include "tests/device_facts/empty_kernel.h"
#include "tests/device_facts/kernels_of_a_program.h"
#include "tests/device_facts/matrix_rate.h"
#include "tests/device_facts/milliseconds.h"

namespace engram {
namespace {

constexpr int kFailed = 1, kWrongUse = 2, kNoDevice = 77;

int Fail(cudaError_t error, const char* what) {
  std::printf("%s\n", cuda::DeviceStatus(error, what).ToString().c_str());
  return kFailed;
}

int Attribute(cudaDeviceAttr attribute) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, attribute, 0) != cudaSuccess) value = -1;
  return value;
}

int TellDevice(std::string* name) {
  cudaDeviceProp properties;
  size_t free = 0, all = 0;
  int driver = 0, runtime = 0;
  cudaError_t error = cudaGetDeviceProperties(&properties, 0);
  if (error == cudaSuccess) error = cudaMemGetInfo(&free, &all);
  if (error == cudaSuccess) error = cudaDriverGetVersion(&driver);
  if (error == cudaSuccess) error = cudaRuntimeGetVersion(&runtime);
  if (error != cudaSuccess) return Fail(error, "asking the device");
  *name = properties.name;
  std::printf(
      "%s, compute capability %d.%d, %d multiprocessors, %.1f MB of L2, "
      "%.1f of %.1f GB free\nclock %d MHz, memory %d MHz and %d bits, %d KB of "
      "shared memory a block; driver for CUDA %d.%d, built with %d.%d\n",
      properties.name, properties.major, properties.minor,
      properties.multiProcessorCount, properties.l2CacheSize / 1e6, free / 1e9,
      all / 1e9, Attribute(cudaDevAttrClockRate) / 1000,
      Attribute(cudaDevAttrMemoryClockRate) / 1000,
      Attribute(cudaDevAttrGlobalMemoryBusWidth),
      Attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) / 1024, driver / 1000,
      driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  return 0;
}

int TellKernels(const std::string& program) {
  std::string device;
  if (const int rc = TellDevice(&device); rc != 0) return rc;
  std::vector<LoadedKernel> kernels;
  for (const std::string& fat_binary : FatBinaries(program)) {
    const cudaError_t error = LoadKernels(fat_binary, &kernels);
    if (error != cudaSuccess) return Fail(error, "loading kernels");
  }
  int registers = 0, with_local = 0;
  std::printf("%9s %6s %7s %8s %9s  %s\n", "registers", "local", "shared",
              "threads", "blocks/SM", "kernel");
  for (const LoadedKernel& kernel : kernels) {
    const cudaFuncAttributes& has = kernel.attributes;
    std::printf("%9d %6zu %7zu %8d %9d  %s\n", has.numRegs, has.localSizeBytes,
                has.sharedSizeBytes, has.maxThreadsPerBlock, kernel.blocks,
                kernel.name.c_str());
    registers = std::max(registers, has.numRegs);
    if (has.localSizeBytes > 0) ++with_local;
  }
  std::printf("%s; %zu kernels, at most %d registers, %d with local memory\n",
              device.c_str(), kernels.size(), registers, with_local);
  return with_local > 0 || kernels.empty() ? kFailed : 0;
}

// TB/s, read and written, of copies of 4 GB or what there is room for.
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

int TellRates() {
  const double copy = CopyRate();
  std::printf("copy, read and written: %.2f TB/s\n", copy);
  const double alone = EmptyKernelTime(false);
  const double overlapping = EmptyKernelTime(true);
  std::printf("an empty kernel in a graph: %.2f us, %.2f overlapping\n", alone,
              overlapping);
  std::string reason;
  const double matrix = MatrixRate(8192, &reason);
  if (reason.empty()) {
    std::printf("products of 8192 in bfloat16 by cuBLASLt: %.0f TFLOP/s\n",
                matrix);
  } else {
    std::printf("no matrix rate: %s\n", reason.c_str());
  }
  std::printf(
      "copies %.2f TB/s, matrices %.0f TFLOP/s, a kernel %.2f us (%.2f)\n",
      copy, matrix, alone, overlapping);
  return copy > 0 && alone > 0 && overlapping > 0 ? 0 : kFailed;
}

int Run(const std::vector<std::string>& arguments) {
  if (arguments.size() == 2 && arguments[0] == "count") {
    std::printf("%zu\n", FatBinaries(arguments[1]).size());
    return 0;
  }
  const bool kernels = arguments.size() == 2 && arguments[0] == "kernels";
  if (!kernels && !(arguments.size() == 1 && arguments[0] == "rates")) {
    std::fprintf(stderr,
                 "usage: device-facts count PROGRAM | kernels PROGRAM | "
                 "rates\n");
    return kWrongUse;
  }
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::printf("this machine has no device: %s\n",
                std::string(cuda::NoDevice(error).message()).c_str());
    return kNoDevice;
  }
  return kernels ? TellKernels(arguments[1]) : TellRates();
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  return engram::Run(std::vector<std::string>(argv + 1, argv + argc));
}
