// CublasLtProduct: products of 16-bit weights by cuBLASLt, on one device.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/weight_view.h"
#include "kernels/operations.h"

namespace engram::cuda {

// Thread-safe.
class CublasLtProduct {
 public:
  // Of the current device, which is to be so in all calls. NOT_FOUND with the
  // reason where there is no such library, or it does not take the device.
  static absl::StatusOr<std::unique_ptr<CublasLtProduct>> Make();
  ~CublasLtProduct();
  CublasLtProduct(const CublasLtProduct&) = delete;
  CublasLtProduct& operator=(const CublasLtProduct&) = delete;

  // With its version.
  std::string name() const { return lt_.Name(); }

  // From one row of y to the next, where its rows are as near as they can be.
  static int64_t ResultStride(const WeightView& weight);

  // The library's choice for products of so many tokens whose y has that
  // stride, best first, 32 at most; without those that it says split the
  // inputs, or that need memory of their own. Any of them may still sum in an
  // order of its own, or refuse.
  std::vector<cublasLtMatmulAlgo_t> Algorithms(const WeightView& weight,
                                               int64_t tokens) const;
  static bool AreEqual(const cublasLtMatmulAlgo_t& a,
                       const cublasLtMatmulAlgo_t& b);

  // Begins y = x Wᵀ, or y += x Wᵀ. False: it refuses, and nothing is begun.
  //   x  [tokens, weight.stride], values of the weight's type, of those behind
  //      the last input zeros
  //   y  [tokens, outputs], rows at multiples of 16 bytes
  bool Begin(cudaStream_t stream, const cublasLtMatmulAlgo_t& algorithm,
             const WeightView& weight, int64_t tokens, const void* x, Matrix y,
             bool accumulate) const;

 private:
  class Layout;
  struct Layouts;

  explicit CublasLtProduct(const CublasLt& lt) : lt_(lt) {}
  absl::Status Open();
  bool Splits(const cublasLtMatmulAlgo_t& algorithm) const;

  const CublasLt lt_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t description_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
};

}  // namespace engram::cuda
