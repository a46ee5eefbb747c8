#include "kernels/cuda/mamba2_block.h"

#include "kernels/block_arguments.h"
#include "kernels/cuda/block_operations.h"
#include "kernels/cuda/ssd_update.h"

namespace engram::cuda {

cudaError_t Mamba2Block(cudaStream_t stream, const LargeProducts& products,
                        const StepTable& step,
                        const Mamba2BlockArguments& block, BlockScratch scratch,
                        float* residual) {
  const int64_t d_inner = block.d_inner();
  const Matrix normed = scratch.Take(block.d_model());
  const Matrix projected = scratch.Take(block.projected());

  BlockOperations operations(stream, products, step, block.d_model(), residual);
  operations.NormedProducts(
      block.norm, normed, {{block.in_proj, projected}}, Activation::kNone,
      ConvolutionOf(step, block.convolution, d_inner, block.convolved(),
                    Activation::kSilu, block.conv_state));
  const Matrix gated = ColumnsFrom(projected, d_inner);
  operations.Note(
      SsdUpdate(stream, step, {ScanOf(block, projected, gated), projected}));
  if (block.gated_norm != nullptr) {
    operations.AddGatedProduct(block.out_proj,
                               GatedNormOf(block, step.token_count, gated, {}));
  } else {
    operations.AddProduct(block.out_proj, gated);
  }
  return operations.error();
}

}  // namespace engram::cuda
