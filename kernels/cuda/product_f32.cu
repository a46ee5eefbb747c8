// Products with float32 weights: for parity with them rather than for speed. A
// warp computes an output of up to 8 tokens; weights are read once for these.
//
// Lane l sums the inputs k with k / 4 = l modulo 32 in ascending order, each by
// one fused multiply-add; then the lanes are added by exchanges with those 16,
// 8, 4, 2 and 1 away.
#include <cmath>

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/product_parts.h"
#include "kernels/cuda/warp_sum.h"

namespace engram::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlockOutputs = kThreads / 32;
constexpr int kTokens = 8;

__device__ void SumTokens(const ProductArguments& product, int64_t output,
                          int64_t first, int count, float (&sums)[kTokens]) {
  const WeightView& weight = product.weight;
  const float* const row =
      static_cast<const float*>(weight.values) + output * weight.stride;
  constexpr int kStride = 4 * 32;
  for (int64_t k = threadIdx.x % 32 * 4; k < weight.stride; k += kStride) {
    const float4 w = LoadConstant(reinterpret_cast<const float4*>(row + k));
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= count) continue;
      const float4 x = LoadFour(product, first + t, k);
      sums[t] = fmaf(x.x, w.x, sums[t]);
      sums[t] = fmaf(x.y, w.y, sums[t]);
      sums[t] = fmaf(x.z, w.z, sums[t]);
      sums[t] = fmaf(x.w, w.w, sums[t]);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    Float32Kernel(ProductArguments all) {
  const ProductArguments product = ThisPart(all);
  GridWait();
  GridTrigger();
  const int64_t output = int64_t{blockIdx.x} * kBlockOutputs + threadIdx.x / 32;
  const int64_t first = int64_t{blockIdx.y} * kTokens;
  const int64_t left = product.tokens - first;
  const int count = left < kTokens ? static_cast<int>(left) : kTokens;
  float sums[kTokens] = {};
  if (output < product.weight.outputs) {
    SumTokens(product, output, first, count, sums);
  }
  // Lane t has token t.
  const int lane = static_cast<int>(threadIdx.x % 32);
  float own = 0.0f;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (t >= count) continue;
    const float sum = WarpSum(sums[t]);
    if (lane == t) own = sum;
  }
  if (lane < count) Finish<1>(product, first + lane, output, {own});
}

}  // namespace

cudaError_t Float32Product(cudaStream_t stream,
                           const ProductArguments& product) {
  const int64_t outputs = product.weight.outputs;
  LaunchShape shape;
  shape.grid =
      dim3(static_cast<unsigned>((outputs + kBlockOutputs - 1) / kBlockOutputs),
           static_cast<unsigned>((product.tokens + kTokens - 1) / kTokens),
           static_cast<unsigned>(product.parts));
  shape.block = dim3(kThreads);
  return Launch(shape, stream, Float32Kernel, product);
}

}  // namespace engram::cuda
