// BlockOperations: what the blocks of a step whose rows have one token each are
// made of, on a stream.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/blocks.h"
#include "kernels/cuda/step_table.h"
#include "kernels/operations.h"

namespace engram::cuda {

// The operations of one block, begun one after the other.
class BlockOperations {
 public:
  BlockOperations(cudaStream_t stream, const StepTable& step, int64_t d_model,
                  float* residual)
      : stream_(stream), step_(step), d_model_(d_model), residual_(residual) {}

  // normed = Norm(residual)
  void Norm(const NormWeights& norm, Matrix normed);
  void Product(const LinearWeights& linear, ConstMatrix x, Matrix y,
               Activation activation = Activation::kNone);
  // residual += linear x
  void AddProduct(const LinearWeights& linear, ConstMatrix x);
  void Convolution(const ConvolutionWeights& convolution, int64_t channels,
                   Activation activation, LayerShares state, ConstMatrix x,
                   Matrix y);

  // Any other launch's.
  void Note(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }
  // The first of the launches'.
  cudaError_t error() const { return error_; }

 private:
  const cudaStream_t stream_;
  const StepTable& step_;
  const int64_t d_model_;
  float* const residual_;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace engram::cuda
