#include "kernels/cuda/product.h"

namespace engram::cuda {

ProductOrder OrderOf(int64_t outputs, int64_t inputs) {
  constexpr int64_t kFewInputs = 256;
  constexpr int64_t kManyBytes = 20'000'000;
  if (inputs <= kFewInputs) return ProductOrder::kTwoTerms;
  return outputs * inputs * 2 >= kManyBytes ? ProductOrder::kPlain
                                            : ProductOrder::kSplit8;
}

cudaError_t Product(cudaStream_t stream, const WeightView& weight,
                    int64_t tokens, ConstMatrix x, const MatMulOptions& options,
                    Matrix y) {
  if (tokens == 0) return cudaSuccess;
  if (weight.format == WeightFormat::kFloat32) {
    return Float32Product(stream, weight, tokens, x, options, y);
  }
  if (tokens <= NarrowTokens(weight)) {
    return NarrowProduct(stream, weight, tokens, x, options, y);
  }
  return TileProduct(stream, weight, tokens, x, options, y);
}

}  // namespace engram::cuda
