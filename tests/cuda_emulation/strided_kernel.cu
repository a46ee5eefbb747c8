#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "tests/cuda_emulation/strided_kernel.h"

namespace engram::cuda {
namespace {

__global__ void __launch_bounds__(kStridedThreads)
    CopyStridedKernel(int stride, const float* from, float* to) {
  GridWait();
  GridTrigger();
  const int thread = threadIdx.x;
  Store(to + 4 * thread, Load(from + stride * thread));
  float* const staged = DynamicShared<float>() + 4 * thread;
  AsyncCopy16(staged, from + 4 * thread);
  AsyncCommit();
  AsyncWait<0>();
  float4 values;
  values.x = staged[0];
  values.y = staged[1];
  values.z = staged[2];
  values.w = staged[3];
  Store(reinterpret_cast<float4*>(to) + thread, values);
}

}  // namespace

cudaError_t CopyStrided(cudaStream_t stream, int stride, const float* from,
                        float* to) {
  return Launch({.grid = dim3(1),
                 .block = dim3(kStridedThreads),
                 .shared_bytes = 4 * kStridedThreads * sizeof(float)},
                stream, CopyStridedKernel, stride, from, to);
}

}  // namespace engram::cuda
