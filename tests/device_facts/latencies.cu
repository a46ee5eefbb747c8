#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "tests/device_facts/device_array.h"
#include "tests/device_facts/latencies.h"

namespace engram {
namespace {

constexpr int kTimes = 1024;

__global__ void MmaChainCycles(int64_t* cycles, float* sums) {
  cuda::GridWait();
  cuda::GridTrigger();
  float acc[4] = {};
  // 1 in bfloat16.
  const uint32_t ones = 0x3f803f80;
  const uint32_t a[4] = {ones, ones, ones, ones}, b[2] = {ones, ones};
  const int64_t begin = clock64();
#pragma unroll 16
  for (int i = 0; i < kTimes; ++i) cuda::MmaBf16(acc, a, b);
  // Not before the last of them.
  cuda::Store(sums + threadIdx.x, acc[0]);
  const int64_t taken = clock64() - begin;
  if (threadIdx.x == 0) cuda::Store(cycles, taken);
}

__global__ void BarriersCycles(int64_t* cycles, float*) {
  cuda::GridWait();
  cuda::GridTrigger();
  const int64_t begin = clock64();
#pragma unroll 16
  for (int i = 0; i < kTimes; ++i) cuda::BlockBarrier();
  const int64_t taken = clock64() - begin;
  if (threadIdx.x == 0) cuda::Store(cycles, taken);
}

// The second run's, which finds its code in the cache.
double CyclesOf(void (*kernel)(int64_t*, float*), int threads) {
  const DeviceArray<int64_t> cycles(std::vector<int64_t>(1));
  const DeviceArray<float> sums(std::vector<float>(threads, 0));
  cuda::LaunchShape shape;
  shape.block = dim3(threads);
  for (int i = 0; i < 2; ++i) {
    if (cuda::Launch(shape, nullptr, kernel, cycles.data(), sums.data()) !=
            cudaSuccess ||
        cudaDeviceSynchronize() != cudaSuccess) {
      return 0;
    }
  }
  return static_cast<double>(cycles.ToHost()[0]) / kTimes;
}

}  // namespace

double MmaCycles() { return CyclesOf(MmaChainCycles, 32); }
double BarrierCycles() { return CyclesOf(BarriersCycles, 256); }

}  // namespace engram
