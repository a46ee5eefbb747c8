// BlockOperations: what the blocks of a step whose rows have one token each are
// made of, on a stream.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/blocks.h"
#include "kernels/cuda/large_products.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/product_fusions.h"
#include "kernels/cuda/step_table.h"
#include "kernels/operations.h"

namespace engram::cuda {

// The operations of one block, begun one after the other.
class BlockOperations {
 public:
  BlockOperations(cudaStream_t stream, const LargeProducts& products,
                  const StepTable& step, int64_t d_model, float* residual)
      : stream_(stream),
        products_(products),
        step_(step),
        d_model_(d_model),
        residual_(residual) {}

  // A matrix that is projected from inputs which others may be projected from,
  // too: by one kernel if all weights have the same shape.
  struct Projection {
    LinearWeights linear;
    Matrix y;
  };
  // y of each = activation(linear Norm(residual)); then the convolution of
  // columns of y in their place. `normed` is room for the norm where a kernel
  // of its own computes that. REQUIRES: a convolution has a projection of its
  // own.
  void NormedProducts(const NormWeights& norm, Matrix normed,
                      absl::Span<const Projection> projections,
                      Activation activation = Activation::kNone,
                      const ProductConvolution& convolution = {});
  void Product(const LinearWeights& linear, ConstMatrix x, Matrix y);
  // The same for another kernel.
  ProductArguments ProductOf(const LinearWeights& linear, ConstMatrix x,
                             Matrix y) const;
  // residual += linear x
  void AddProduct(const LinearWeights& linear, ConstMatrix x);
  // residual += linear GatedNorm; its `normed` as above.
  void AddGatedProduct(const LinearWeights& linear,
                       const GatedNormArguments& gate);

  // Any other launch's.
  void Note(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }
  // The first of the launches'.
  cudaError_t error() const { return error_; }

 private:
  ProductArguments AdditionOf(const LinearWeights& linear, ConstMatrix x) const;
  // Of one that knows its x.
  void Begin(const ProductArguments& product);

  const cudaStream_t stream_;
  const LargeProducts& products_;
  const StepTable& step_;
  const int64_t d_model_;
  float* const residual_;
  cudaError_t error_ = cudaSuccess;
};

// Of the `channels` columns from `first` on.
ProductConvolution ConvolutionOf(const StepTable& step,
                                 const ConvolutionWeights& weights,
                                 int64_t first, int64_t channels,
                                 Activation activation, LayerShares state);

}  // namespace engram::cuda
