// A block has a token by one group. A thread adds up the squares of elements i,
// i + 256, ... in ascending order, and then the threads' sums are added as
// BlockSum does.
//
// Memory per element: reads 8 bytes (y, z, if it is not gated yet; the second
// time from a cache) and writes 4.
#include <cmath>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/block_sum.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/gated_norm.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_data.h"

namespace engram::cuda {
namespace {

__global__ void __launch_bounds__(kSumThreads)
    GatedNormKernel(GatedNormArguments arguments) {
  GridWait();
  GridTrigger();
  const int64_t token = blockIdx.x;
  const int64_t width = arguments.d_inner / arguments.groups;
  const int64_t first = blockIdx.y * width;
  const int64_t begin = threadIdx.x;
  const auto gated = [&](int64_t i) {
    const float y = Load(At(arguments.y, token, first + i));
    return arguments.z.data == nullptr
               ? y
               : y * Silu(Load(At(arguments.z, token, first + i)));
  };
  if (arguments.weight == nullptr) {
    for (int64_t i = begin; i < width; i += kSumThreads) {
      Store(At(arguments.normed, token, first + i), gated(i));
    }
    return;
  }
  float sum = 0.0f;
  for (int64_t i = begin; i < width; i += kSumThreads) {
    const float value = gated(i);
    sum = fmaf(value, value, sum);
  }
  const float mean =
      BlockSum(sum, DynamicShared<float>()) / static_cast<float>(width);
  const float scale = 1.0f / sqrtf(mean + arguments.epsilon);
  for (int64_t i = begin; i < width; i += kSumThreads) {
    Store(At(arguments.normed, token, first + i),
          gated(i) * scale * LoadConstant(arguments.weight + first + i));
  }
}

}  // namespace

cudaError_t GatedNorm(cudaStream_t stream,
                      const GatedNormArguments& arguments) {
  if (arguments.tokens == 0) return cudaSuccess;
  // Without a norm there are no groups.
  GatedNormArguments grouped = arguments;
  if (arguments.weight == nullptr) grouped.groups = 1;
  return Launch({dim3(static_cast<unsigned>(arguments.tokens),
                      static_cast<unsigned>(grouped.groups)),
                 dim3(kSumThreads), kSumWarps * sizeof(float)},
                stream, GatedNormKernel, grouped);
}

}  // namespace engram::cuda
