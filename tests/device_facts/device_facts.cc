// What a card says of itself and of our kernels, and what it can do at best.
//
//   device-facts count PROGRAM    pieces of device code in the program's file
//   device-facts kernels PROGRAM  the device, and each kernel as it was loaded
//   device-facts rates            copies, matrix products, what a kernel costs
//   device-facts bits             how tensor cores, products and cuBLASLt add
//   device-facts workloads        kernels of 200 MB, as shares of copies' rate
//   device-facts once             these once each, for a profiler
//   device-facts step SHAPE ROWS TOKENS   a step of two layers, for a profiler
//
// The last line is the result in short. Ends with 0; 1 if something failed, or
// a kernel has local memory; 2 after wrong use; 77 without a device.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kernels/cuda/device_status.h"
#include "tests/device_facts/bits.h"
#include "tests/device_facts/kernels_of_a_program.h"
#include "tests/device_facts/profiled_step.h"
#include "tests/device_facts/rates.h"
#include "tests/device_facts/workload_rates.h"

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

int Run(const std::vector<std::string>& arguments) {
  if (arguments.size() == 2 && arguments[0] == "count") {
    std::printf("%zu\n", FatBinaries(arguments[1]).size());
    return 0;
  }
  const std::map<std::string, std::function<int()>> facts = {
      {"rates", TellRates},
      {"bits", TellBits},
      {"workloads", TellWorkloads},
      {"once", RunWorkloadsOnce}};
  const bool kernels = arguments.size() == 2 && arguments[0] == "kernels";
  const bool step = arguments.size() == 4 && arguments[0] == "step";
  if (!kernels && !step &&
      !(arguments.size() == 1 && facts.count(arguments[0]) > 0)) {
    std::fprintf(stderr,
                 "usage: device-facts count PROGRAM | kernels PROGRAM | "
                 "rates | bits | workloads | once | step SHAPE ROWS TOKENS\n");
    return kWrongUse;
  }
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::printf("this machine has no device: %s\n",
                std::string(cuda::NoDevice(error).message()).c_str());
    return kNoDevice;
  }
  if (step) return RunStepOnce({arguments.begin() + 1, arguments.end()});
  return kernels ? TellKernels(arguments[1]) : facts.at(arguments[0])();
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  return engram::Run(std::vector<std::string>(argv + 1, argv + argc));
}
