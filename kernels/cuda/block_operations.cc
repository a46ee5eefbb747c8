#include "kernels/cuda/block_operations.h"

#include <algorithm>

#include "kernels/cuda/alignment.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/status.h"

namespace engram::cuda {
namespace {

bool HaveOneShape(absl::Span<const BlockOperations::Projection> projections) {
  const WeightView& first = ViewOf(*projections[0].linear.weight);
  return std::all_of(
      projections.begin(), projections.end(),
      [&](const BlockOperations::Projection& projection) {
        const WeightView& view = ViewOf(*projection.linear.weight);
        return view.outputs == first.outputs && view.inputs == first.inputs &&
               view.format == first.format;
      });
}

// One kernel's. REQUIRES: HaveOneShape.
ProductArguments Together(
    absl::Span<const BlockOperations::Projection> projections, int64_t tokens,
    ConstMatrix x, Activation activation) {
  MatMulOptions options;
  options.bias = projections[0].linear.bias;
  options.activation = activation;
  ProductArguments product = ArgumentsOf(ViewOf(*projections[0].linear.weight),
                                         tokens, x, options, projections[0].y);
  product.parts = static_cast<int>(projections.size());
  for (size_t i = 1; i < projections.size(); ++i) {
    const BlockOperations::Projection& other = projections[i];
    product.others[i - 1] = {ViewOf(*other.linear.weight), other.linear.bias,
                             other.y};
    product.y_aligned = product.y_aligned && ArePairsAligned(other.y);
  }
  return product;
}

}  // namespace

void BlockOperations::NormedProducts(const NormWeights& norm, Matrix normed,
                                     absl::Span<const Projection> projections,
                                     Activation activation,
                                     const ProductConvolution& convolution) {
  ENGRAM_CHECK(convolution.channels == 0 || projections.size() == 1);
  const bool are_together = HaveOneShape(projections);
  ProductArguments first =
      Together(are_together ? projections : projections.first(1),
               step_.token_count, normed, activation);
  const RowNorm row_norm = RowNormOf(norm, d_model_, residual_);
  if (are_together && CanNorm(first, row_norm)) {
    first.norm = row_norm;
  } else {
    Note(Norm(stream_, norm, step_.token_count, d_model_, residual_, normed));
  }
  first.convolution = convolution;
  Begin(first);
  if (are_together) return;
  for (const Projection& other : projections.subspan(1)) {
    Begin(Together({&other, 1}, step_.token_count, normed, activation));
  }
}

void BlockOperations::Product(const LinearWeights& linear, ConstMatrix x,
                              Matrix y) {
  Begin(ProductOf(linear, x, y));
}

ProductArguments BlockOperations::ProductOf(const LinearWeights& linear,
                                            ConstMatrix x, Matrix y) const {
  MatMulOptions options;
  options.bias = linear.bias;
  return ArgumentsOf(ViewOf(*linear.weight), step_.token_count, x, options, y);
}

void BlockOperations::AddProduct(const LinearWeights& linear, ConstMatrix x) {
  Begin(AdditionOf(linear, x));
}

void BlockOperations::AddGatedProduct(const LinearWeights& linear,
                                      const GatedNormArguments& gate) {
  ProductArguments product = AdditionOf(linear, gate.normed);
  const RowNorm row_norm = RowNormOf(gate);
  if (CanNorm(product, row_norm)) {
    product.norm = row_norm;
  } else {
    Note(GatedNorm(stream_, gate));
  }
  Begin(product);
}

ProductArguments BlockOperations::AdditionOf(const LinearWeights& linear,
                                             ConstMatrix x) const {
  MatMulOptions options;
  options.bias = linear.bias;
  options.accumulate = true;
  return ArgumentsOf(ViewOf(*linear.weight), step_.token_count, x, options,
                     {residual_, d_model_});
}

void BlockOperations::Begin(const ProductArguments& product) {
  Note(products_.Begin(stream_, product));
}

ProductConvolution ConvolutionOf(const StepTable& step,
                                 const ConvolutionWeights& weights,
                                 int64_t first, int64_t channels,
                                 Activation activation, LayerShares state) {
  ProductConvolution convolution;
  convolution.step = step;
  convolution.first = first;
  convolution.channels = channels;
  convolution.taps = weights.taps;
  convolution.weight = weights.weight;
  convolution.bias = weights.bias;
  convolution.activation = activation;
  convolution.state = state;
  convolution.by_pairs =
      first % 2 == 0 && channels % 2 == 0 && ArePairsAligned(weights.weight) &&
      ArePairsAligned(weights.bias) && ArePairsAligned(state);
  return convolution;
}

}  // namespace engram::cuda
