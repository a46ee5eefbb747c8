// A block computes a token. Reads 4 bytes per element from memory (the second
// and third pass find the token in the caches) and writes 4.
//
// Thread t sums the elements 4 i, ..., 4 i + 3 of all i = t modulo 256 in
// ascending order, squares by fused multiply-add; then BlockSum's order.
#include <cmath>

#include "kernels/cuda/block_sum.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/row_data.h"

namespace engram::cuda {
namespace {

constexpr int64_t kGroup = 4;

// Calls `visit(i, value)` for the elements of this thread.
template <class Visit>
__device__ void ForEachOwn(const float* values, int64_t count, bool aligned,
                           const Visit& visit) {
  constexpr int64_t kStep = kGroup * kSumThreads;
  for (int64_t i = kGroup * threadIdx.x; i < count; i += kStep) {
    if (aligned) {
      const float4 group = Load(reinterpret_cast<const float4*>(values + i));
      visit(i, group.x);
      visit(i + 1, group.y);
      visit(i + 2, group.z);
      visit(i + 3, group.w);
      continue;
    }
    for (int64_t j = i; j < i + kGroup && j < count; ++j) {
      visit(j, Load(values + j));
    }
  }
}

__global__ void NormKernel(NormWeights norm, int64_t d_model,
                           const float* residual, Matrix normed, bool aligned) {
  GridWait();
  GridTrigger();
  float* const partials = DynamicShared<float>();
  const int64_t token = blockIdx.x;
  const float* const x = residual + token * d_model;
  const auto count = static_cast<float>(d_model);
  float mean = 0.0f;
  if (norm.kind == NormKind::kLayer) {
    float sum = 0.0f;
    ForEachOwn(x, d_model, aligned,
               [&](int64_t, float value) { sum = sum + value; });
    mean = BlockSum(sum, partials) / count;
  }
  float squares = 0.0f;
  ForEachOwn(x, d_model, aligned, [&](int64_t, float value) {
    const float centred = value - mean;
    squares = fmaf(centred, centred, squares);
  });
  const float variance = BlockSum(squares, partials) / count;
  const float scale = 1.0f / sqrtf(variance + norm.epsilon);
  float* const y = At(normed, token, 0);
  ForEachOwn(x, d_model, aligned, [&](int64_t i, float value) {
    const float scaled = (value - mean) * scale;
    const float weighted = scaled * LoadConstant(norm.weight + i);
    Store(y + i, norm.kind == NormKind::kLayer
                     ? weighted + LoadConstant(norm.bias + i)
                     : weighted);
  });
}

}  // namespace

cudaError_t Norm(cudaStream_t stream, const NormWeights& norm, int64_t tokens,
                 int64_t d_model, const float* residual, Matrix normed) {
  if (tokens == 0) return cudaSuccess;
  const bool aligned =
      d_model % kGroup == 0 && reinterpret_cast<uintptr_t>(residual) % 16 == 0;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(tokens));
  shape.block = dim3(kSumThreads);
  shape.shared_bytes = kSumWarps * sizeof(float);
  return Launch(shape, stream, NormKernel, norm, d_model, residual, normed,
                aligned);
}

}  // namespace engram::cuda
