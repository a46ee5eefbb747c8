#include "kernels/cuda/mamba2_block.h"

#include "kernels/cuda/block_operations.h"
#include "kernels/cuda/ssd_update.h"

namespace engram::cuda {
namespace {

// z | x | b | c | dt in `projected`, where y takes the place of x.
SsdScanArguments ScanOf(const Mamba2BlockArguments& block, Matrix projected) {
  const Matrix convolved = ColumnsFrom(projected, block.d_inner());
  SsdScanArguments scan;
  scan.heads = block.heads;
  scan.groups = block.groups;
  scan.head_dim = block.head_dim;
  scan.d_state = block.d_state;
  scan.x = convolved;
  scan.dt = ColumnsFrom(convolved, block.convolved());
  scan.b = ColumnsFrom(convolved, block.d_inner());
  scan.c = ColumnsFrom(convolved, block.d_inner() + block.group_states());
  scan.dt_bias = block.dt_bias;
  scan.a = block.a;
  scan.d = block.d;
  scan.dt_min = block.dt_min;
  scan.dt_max = block.dt_max;
  scan.ssm_state = block.ssm_state;
  scan.y = convolved;
  return scan;
}

// Of what has been gated.
GatedNormArguments NormOf(const Mamba2BlockArguments& block, int64_t tokens,
                          Matrix gated) {
  GatedNormArguments norm;
  norm.tokens = tokens;
  norm.d_inner = block.d_inner();
  norm.groups = block.groups;
  norm.y = gated;
  norm.weight = block.gated_norm;
  norm.epsilon = block.gated_norm_epsilon;
  norm.normed = gated;
  return norm;
}

}  // namespace

cudaError_t Mamba2Block(cudaStream_t stream, const StepTable& step,
                        const Mamba2BlockArguments& block, BlockScratch scratch,
                        float* residual) {
  const int64_t d_inner = block.d_inner();
  const Matrix normed = scratch.Take(block.d_model());
  const Matrix projected = scratch.Take(block.projected());

  BlockOperations operations(stream, step, block.d_model(), residual);
  operations.NormedProducts(
      block.norm, normed, {{block.in_proj, projected}}, Activation::kNone,
      ConvolutionOf(step, block.convolution, d_inner, block.convolved(),
                    Activation::kSilu, block.conv_state));
  SsdUpdateArguments update;
  update.scan = ScanOf(block, projected);
  update.z = projected;
  operations.Note(SsdUpdate(stream, step, update));
  const Matrix gated = ColumnsFrom(projected, d_inner);
  if (block.gated_norm != nullptr) {
    operations.AddGatedProduct(block.out_proj,
                               NormOf(block, step.token_count, gated));
  } else {
    operations.AddProduct(block.out_proj, gated);
  }
  return operations.error();
}

}  // namespace engram::cuda
