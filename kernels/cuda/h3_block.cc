#include "kernels/cuda/h3_block.h"

#include "kernels/block_arguments.h"
#include "kernels/cuda/block_operations.h"
#include "kernels/cuda/h3_update.h"

namespace engram::cuda {

cudaError_t H3Block(cudaStream_t stream, const LargeProducts& products,
                    const StepTable& step, const H3BlockArguments& block,
                    BlockScratch scratch, float* residual) {
  const int64_t d_model = block.d_model();
  const Matrix normed = scratch.Take(d_model);
  const Matrix q = scratch.Take(d_model);
  const Matrix k = scratch.Take(d_model);
  const Matrix v = scratch.Take(d_model);

  BlockOperations operations(stream, products, step, d_model, residual);
  operations.NormedProducts(
      block.norm, normed,
      {{block.q_proj, q}, {block.k_proj, k}, {block.v_proj, v}});
  operations.Note(
      H3Update(stream, step, {ShiftOf(block, k, v), ScanOf(block, q, v)}));
  operations.AddProduct(block.output, v);
  return operations.error();
}

}  // namespace engram::cuda
