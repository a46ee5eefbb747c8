#include "kernels/cuda/product.h"
#include "kernels/cuda/row_data.h"
#include "kernels/large_weights.h"

namespace engram::cuda {

ProductOrder OrderOf(int64_t outputs, int64_t inputs) {
  constexpr int64_t kFewInputs = 256;
  if (inputs <= kFewInputs) return ProductOrder::kTwoTerms;
  return IsLargeWeight(outputs, inputs) ? ProductOrder::kPlain
                                        : ProductOrder::kSplit8;
}

ProductArguments ArgumentsOf(const WeightView& weight, int64_t tokens,
                             ConstMatrix x, const MatMulOptions& options,
                             Matrix y) {
  ProductArguments product;
  product.weight = weight;
  product.tokens = tokens;
  product.x = x;
  product.x_aligned = AreFoursAligned(x);
  product.y_aligned = ArePairsAligned(y);
  product.options = options;
  product.y = y;
  return product;
}

cudaError_t Product(cudaStream_t stream, const ProductArguments& product) {
  if (product.tokens == 0) return cudaSuccess;
  if (product.weight.format == WeightFormat::kFloat32) {
    return Float32Product(stream, product);
  }
  if (product.tokens <= NarrowTokens(product.weight, product.parts)) {
    return NarrowProduct(stream, product);
  }
  return TileProduct(stream, product);
}

}  // namespace engram::cuda
