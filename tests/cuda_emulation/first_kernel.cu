#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "tests/cuda_emulation/first_kernel.h"

namespace engram::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    SumAndDoubleKernel(float* values, float* sums) {
  GridWait();
  GridTrigger();
  const int thread = threadIdx.x;
  float* const own = values + blockIdx.x * kThreads + thread;
  const float value = Load(own);
  Store(own, 2 * value);
  float sum = value;
  for (int mask = 16; mask > 0; mask /= 2) sum += ShuffleXor(sum, mask);
  float* const of_warps = DynamicShared<float>();
  if (thread % 32 == 0) of_warps[thread / 32] = sum;
  BlockBarrier();
  if (thread == 0) {
    float total = 0;
    for (int warp = 0; warp < kThreads / 32; ++warp) total += of_warps[warp];
    Store(sums + blockIdx.x, total);
  }
}

__global__ void __launch_bounds__(32) TurnKernel(uint32_t* turned) {
  GridWait();
  GridTrigger();
  auto* const matrices = DynamicShared<uint16_t>();
  const int lane = threadIdx.x;
  for (int i = 0; i < 8; ++i) {
    matrices[8 * lane + i] = static_cast<uint16_t>(8 * lane + i);
  }
  WarpBarrier();
  uint32_t own[4];
  LoadTurned(own, matrices + 8 * lane);
  for (int m = 0; m < 4; ++m) Store(turned + 4 * lane + m, own[m]);
}

}  // namespace

cudaError_t Turn(cudaStream_t stream, uint32_t* turned) {
  return Launch({.grid = dim3(1),
                 .block = dim3(32),
                 .shared_bytes = 4 * 64 * sizeof(uint16_t)},
                stream, TurnKernel, turned);
}

cudaError_t SumAndDouble(cudaStream_t stream, int blocks, float* values,
                         float* sums) {
  return Launch({.grid = dim3(blocks),
                 .block = dim3(kThreads),
                 .shared_bytes = kThreads / 32 * sizeof(float)},
                stream, SumAndDoubleKernel, values, sums);
}

}  // namespace engram::cuda
