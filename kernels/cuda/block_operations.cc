#include "kernels/cuda/block_operations.h"

#include "kernels/cuda/causal_conv1d.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/cuda/product.h"

namespace engram::cuda {

void BlockOperations::Norm(const NormWeights& norm, Matrix normed) {
  Note(cuda::Norm(stream_, norm, step_.token_count, d_model_, residual_,
                  normed));
}

void BlockOperations::Product(const LinearWeights& linear, ConstMatrix x,
                              Matrix y, Activation activation) {
  MatMulOptions options;
  options.bias = linear.bias;
  options.activation = activation;
  Note(cuda::Product(stream_, ViewOf(*linear.weight), step_.token_count, x,
                     options, y));
}

void BlockOperations::AddProduct(const LinearWeights& linear, ConstMatrix x) {
  MatMulOptions options;
  options.bias = linear.bias;
  options.accumulate = true;
  Note(cuda::Product(stream_, ViewOf(*linear.weight), step_.token_count, x,
                     options, {residual_, d_model_}));
}

void BlockOperations::Convolution(const ConvolutionWeights& convolution,
                                  int64_t channels, Activation activation,
                                  LayerShares state, ConstMatrix x, Matrix y) {
  CausalConv1dArguments arguments;
  arguments.channels = channels;
  arguments.d_conv = convolution.taps;
  arguments.x = x;
  arguments.weight = convolution.weight;
  arguments.bias = convolution.bias;
  arguments.activation = activation;
  arguments.conv_state = state;
  arguments.y = y;
  Note(CausalConv1d(stream_, step_, arguments));
}

}  // namespace engram::cuda
