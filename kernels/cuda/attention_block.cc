#include "kernels/cuda/attention_block.h"

#include "kernels/cuda/attention.h"
#include "kernels/cuda/block_operations.h"

namespace engram::cuda {
namespace {

// q | k | v in `qkv`, where y takes the place of q.
AttentionArguments AttentionOf(const AttentionBlockArguments& block,
                               Matrix qkv) {
  AttentionArguments attention;
  attention.heads = block.heads;
  attention.kv_heads = block.kv_heads;
  attention.head_dim = block.head_dim;
  attention.scale = block.scale;
  attention.rotary_dim = block.rotary_dim;
  attention.frequencies = block.frequencies;
  attention.q = qkv;
  attention.k = ColumnsFrom(qkv, block.q_width());
  attention.v = ColumnsFrom(qkv, block.q_width() + block.kv_width());
  attention.blocks = block.blocks;
  attention.y = qkv;
  return attention;
}

}  // namespace

cudaError_t AttentionBlock(cudaStream_t stream, const StepTable& step,
                           const AttentionBlockArguments& block,
                           BlockScratch scratch, float* residual) {
  const Matrix normed = scratch.Take(block.d_model());
  const Matrix qkv = scratch.Take(block.qkv_width());

  BlockOperations operations(stream, step, block.d_model(), residual);
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
