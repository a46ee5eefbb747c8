// Products by cuBLASLt, which is loaded where it is installed.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/cublaslt.h"

namespace engram {

using cuda::CublasLt;

// nullptr with the reason if it is not there.
const CublasLt* FindCublasLt(std::string* reason);

// y [tokens, outputs] = x [tokens, inputs] Wᵀ in bfloat16, summed in float32,
// with `stride` values from a row of x or of W [outputs, inputs] to the next.
// Is never destroyed, as all of a program that ends soon.
class LtProduct {
 public:
  struct Shape {
    int64_t tokens, outputs, inputs, stride;
    cudaDataType_t y = CUDA_R_32F;
    size_t workspace_bytes = 0;
  };
  LtProduct(const CublasLt& library, const Shape& shape);

  // The best first, at most `most`; all of them, or those alone that sum each
  // element in one piece.
  std::vector<cublasLtMatmulAlgo_t> Algorithms(int most, bool in_one_piece);
  cudaError_t Begin(const cublasLtMatmulAlgo_t& algorithm, const void* x,
                    const void* weight, void* y, cudaStream_t stream);

 private:
  const CublasLt& library_;
  const Shape shape_;
  bool works_ = false;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t weight_ = nullptr, x_ = nullptr, y_ = nullptr;
  void* workspace_ = nullptr;
};

}  // namespace engram
