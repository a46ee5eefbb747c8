// Backend::MatMul on a device: in which order it sums, and the kernels that do
// so. Which of them runs is chosen by the number of tokens and never changes a
// bit.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/product_fusions.h"
#include "kernels/cuda/weight_view.h"
#include "kernels/operations.h"

namespace engram::cuda {

// The order of a product with a weight of 16 bits, over steps of 16 inputs
// which the tensor cores add in an order of their own:
//   kTwoTerms  x is taken as two terms of the weight's type, the nearest one
//              and that of the rest; each has one sum from zero, steps
//              ascending, and the second sum is added to the first
//   kPlain     one sum from zero, steps ascending
//   kSplit8    units of 64 inputs in 8 segments, segment s from unit s U / 8 of
//              U on; each a sum from zero as above, then the segments ascending
// Products with float32 weights have one order too, product_f32.cu's.
enum class ProductOrder { kTwoTerms, kPlain, kSplit8 };

// By the shape alone. Few inputs need no splitting, and don't average out what
// rounding x does to them; behind weights of many bytes a long chain is not
// waited for.
ProductOrder OrderOf(int64_t outputs, int64_t inputs);

// First unit of 64 inputs of `segment` (8: behind the last) of a kSplit8
// product.
constexpr int64_t kUnitInputs = 64;
static_assert(kUnitInputs == kInt8UnitInputs, "a unit has a scale");
constexpr int64_t kSegments = 8;

// A weight that is multiplied with the same x: of the same shape and format as
// the first.
struct ProductPart {
  WeightView weight;
  const float* bias = nullptr;
  Matrix y;
};

// What a product's kernels are given.
struct ProductArguments {
  static constexpr int kPartsMax = 3;

  WeightView weight;
  int64_t tokens = 0;
  ConstMatrix x;
  // Whether four values at a multiple of four of a row of x can be loaded at
  // once.
  bool x_aligned = false;
  // Whether two at a multiple of two of a row of y can be stored at once.
  bool y_aligned = false;
  MatMulOptions options;
  Matrix y;
  int parts = 1;  // with the one above
  ProductPart others[kPartsMax - 1];
  // x is what this gives, where its own x has places; REQUIRES: CanNorm.
  RowNorm norm;
  ProductConvolution convolution;
};

// y = x Wᵀ with what `options` say.
ProductArguments ArgumentsOf(const WeightView& weight, int64_t tokens,
                             ConstMatrix x, const MatMulOptions& options,
                             Matrix y);

// Each begins a product on `stream`; an error is one of the launch. What is
// rounded: x to the weight's format where that has 16 bits, once or to two
// terms, with finite values too large for float16 as the largest there is; the
// sum once, in float32.
cudaError_t Product(cudaStream_t stream, const ProductArguments& product);
// Whether Product can norm its inputs by itself: few tokens, which each of its
// blocks has to norm, and a weight of 16 bits.
bool CanNorm(const ProductArguments& product, const RowNorm& norm);

// Float32 weights, any number of tokens.
cudaError_t Float32Product(cudaStream_t stream,
                           const ProductArguments& product);
// Weights of 16 bits: any number of tokens, of which narrow products are meant
// for the few that `NarrowTokens` says.
cudaError_t TileProduct(cudaStream_t stream, const ProductArguments& product);
// By tiles of so many rows, which are tokens or their terms, and of 64 outputs
// or, OfFew, half as many; or by large ones, unless x has no whole fours. A
// choice that is seen in the time alone.
enum class TileSize { k16OfFew, k32OfFew, k16, k32, k64, kLarge };
// What takes the least time by a count of bytes and cycles, of a product of so
// many parts.
TileSize TileSizeOf(const WeightView& weight, int64_t tokens, int parts = 1);
cudaError_t TileProduct(cudaStream_t stream, TileSize size,
                        const ProductArguments& product);
cudaError_t NarrowProduct(cudaStream_t stream, const ProductArguments& product);
// Of a product of so many parts. With few outputs there are more of them: tiles
// would leave most of a device idle.
int64_t NarrowTokens(const WeightView& weight, int parts = 1);

}  // namespace engram::cuda
