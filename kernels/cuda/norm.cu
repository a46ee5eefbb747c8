// A block computes a group of a token (row_norm.h). Reads 4 bytes per element
// from memory, with a gate 8 (the later passes find them in the caches), and
// writes 4.
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/row_norm.h"

namespace engram::cuda {
namespace {

__global__ void __launch_bounds__(kNormThreads)
    NormKernel(RowNorm norm, Matrix normed, bool y_aligned) {
  PrefetchNorm(norm);
  GridWait();
  GridTrigger();
  const NormRange range = {int64_t{blockIdx.x}, 1, int64_t{blockIdx.y}, 1};
  NormRows(norm, range, DynamicShared<float>(),
           [&](int, int64_t column, const FewValues& few, auto) {
             float* const y = At(normed, range.first_token, column);
             if (y_aligned) {
               Store(reinterpret_cast<float4*>(y),
                     float4{few.values[0], few.values[1], few.values[2],
                            few.values[3]});
               return;
             }
             for (int j = 0; j < few.count; ++j) Store(y + j, few.values[j]);
           });
}

bool CanLoadFours(const RowNorm& norm) {
  return norm.width % 4 == 0 && AreFoursAligned(norm.x) &&
         (norm.z.data == nullptr || AreFoursAligned(norm.z)) &&
         AreFoursAligned(norm.weight) && AreFoursAligned(norm.bias);
}

cudaError_t LaunchNorm(cudaStream_t stream, const RowNorm& norm, int64_t tokens,
                       Matrix normed) {
  if (tokens == 0) return cudaSuccess;
  return Launch(
      {dim3(static_cast<unsigned>(tokens), static_cast<unsigned>(norm.groups)),
       dim3(kNormThreads), NormSumFloats(1) * sizeof(float)},
      stream, NormKernel, norm, normed,
      norm.width % 4 == 0 && AreFoursAligned(normed));
}

}  // namespace

RowNorm RowNormOf(const NormWeights& norm, int64_t d_model,
                  const float* residual) {
  RowNorm row;
  row.x = {residual, d_model};
  row.width = d_model;
  row.kind = norm.kind;
  row.weight = norm.weight;
  row.bias = norm.kind == NormKind::kLayer ? norm.bias : nullptr;
  row.epsilon = norm.epsilon;
  row.aligned = CanLoadFours(row);
  return row;
}

RowNorm RowNormOf(const GatedNormArguments& arguments) {
  RowNorm row;
  row.x = arguments.y;
  row.z = arguments.z;
  // Without a norm there are no groups.
  row.groups = arguments.weight == nullptr ? 1 : arguments.groups;
  row.width = arguments.d_inner / row.groups;
  row.weight = arguments.weight;
  row.epsilon = arguments.epsilon;
  row.aligned = CanLoadFours(row);
  return row;
}

cudaError_t Norm(cudaStream_t stream, const NormWeights& norm, int64_t tokens,
                 int64_t d_model, const float* residual, Matrix normed) {
  return LaunchNorm(stream, RowNormOf(norm, d_model, residual), tokens, normed);
}

cudaError_t GatedNorm(cudaStream_t stream,
                      const GatedNormArguments& arguments) {
  return LaunchNorm(stream, RowNormOf(arguments), arguments.tokens,
                    arguments.normed);
}

}  // namespace engram::cuda
