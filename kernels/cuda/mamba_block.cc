#include "kernels/cuda/mamba_block.h"

#include "kernels/block_arguments.h"
#include "kernels/cuda/block_operations.h"
#include "kernels/cuda/mamba_update.h"

namespace engram::cuda {

cudaError_t MambaBlock(cudaStream_t stream, const LargeProducts& products,
                       const StepTable& step, const MambaBlockArguments& block,
                       BlockScratch scratch, float* residual) {
  const Matrix normed = scratch.Take(block.d_model());
  const Matrix projected = scratch.Take(2 * block.d_inner);
  const Matrix scan_inputs = scratch.Take(block.scan_inputs());
  const Matrix dt = scratch.Take(block.d_inner);

  BlockOperations operations(stream, products, step, block.d_model(), residual);
  operations.NormedProducts(
      block.norm, normed, {{block.in_proj, projected}}, Activation::kNone,
      ConvolutionOf(step, block.convolution, 0, block.d_inner,
                    Activation::kSilu, block.conv_state));
  operations.Product(block.x_proj, projected, scan_inputs);
  operations.Note(
      MambaUpdate(stream, step,
                  {operations.ProductOf(block.dt_proj, scan_inputs, dt),
                   ScanOf(block, projected, projected, scan_inputs, dt)}));
  operations.AddProduct(block.out_proj, projected);
  return operations.error();
}

}  // namespace engram::cuda
