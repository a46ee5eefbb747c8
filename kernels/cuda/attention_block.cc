#include "kernels/cuda/attention_block.h"

#include "kernels/block_arguments.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/block_operations.h"

namespace engram::cuda {

cudaError_t AttentionBlock(cudaStream_t stream, const LargeProducts& products,
                           const StepTable& step,
                           const AttentionBlockArguments& block,
                           BlockScratch scratch, float* residual) {
  const Matrix normed = scratch.Take(block.d_model());
  const Matrix qkv = scratch.Take(block.qkv_width());

  BlockOperations operations(stream, products, step, block.d_model(), residual);
  ProductConvolution convolution;
  if (block.convolution.taps > 0) {
    convolution = ConvolutionOf(step, block.convolution, 0, block.qkv_width(),
                                Activation::kNone, block.conv_state);
  }
  operations.NormedProducts(block.norm, normed, {{block.qkv, qkv}},
                            Activation::kNone, convolution);
  operations.Note(Attention(stream, step, AttentionOf(block, qkv)));
  operations.AddProduct(block.output, qkv);
  return operations.error();
}

}  // namespace engram::cuda
