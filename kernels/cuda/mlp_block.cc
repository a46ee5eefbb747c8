#include "kernels/cuda/mlp_block.h"

#include "kernels/block_arguments.h"
#include "kernels/cuda/block_operations.h"

namespace engram::cuda {

cudaError_t MlpBlock(cudaStream_t stream, const LargeProducts& products,
                     const StepTable& step, const MlpBlockArguments& block,
                     BlockScratch scratch, float* residual) {
  const Matrix normed = scratch.Take(block.d_model());
  const Matrix hidden = scratch.Take(block.fc1.weight->outputs());

  BlockOperations operations(stream, products, step, block.d_model(), residual);
  operations.NormedProducts(
      block.norm, normed, {{block.fc1, hidden}},
      block.gated ? Activation::kNone : Activation::kGeluTanh);
  if (block.gated) {
    operations.AddGatedProduct(block.fc2,
                               GateOf(block, step.token_count, hidden));
  } else {
    operations.AddProduct(block.fc2, hidden);
  }
  return operations.error();
}

}  // namespace engram::cuda
