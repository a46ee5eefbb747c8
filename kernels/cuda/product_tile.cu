// Products of any number of tokens with weights of 16 bits.
//
// A block of 4 warps computes 16 or 64 tokens of 64 outputs. Units of 64 inputs
// pass through shared memory: weights by copies that are begun some units
// ahead, tokens by registers, where they are rounded to the weight's format
// while the unit before is multiplied. Each block reads 64 outputs' weights and
// its tokens once. With second terms it has half as many tokens.
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/product_parts.h"

namespace engram::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kOutputs = 64;
constexpr int kStages = 4;  // of weights
constexpr int kWeightStageBytes = kOutputs * kRowBytes;

// How a block's warps share its tile: `kRowWarps` side by side over the tokens,
// each with `kRowTiles` times 16 rows of the tensor cores.
template <int kRowTilesOf, int kRowWarpsOf, ProductOrder kOrderOf>
struct Tile {
  static constexpr ProductOrder kOrder = kOrderOf;
  static constexpr int kRowTiles = kRowTilesOf;
  static constexpr int kRowWarps = kRowWarpsOf;
  static constexpr int kRows = 16 * kRowTiles * kRowWarps;
  static constexpr int kTokens = kRows / TermsOf(kOrder);
  static constexpr int kColumnWarps = kWarps / kRowWarps;
  static constexpr int kColumnTiles = kOutputs / 8 / kColumnWarps;
  static constexpr int kTokenStageBytes = kRows * kRowBytes;
  // Four inputs each, that a thread has of a unit.
  static constexpr int kFours = kTokens * (kUnitInputs / 4) / kThreads;
  static constexpr int64_t kSharedBytes =
      kStages * kWeightStageBytes + 2 * kTokenStageBytes;

  float sums[kRowTiles][kColumnTiles][4];
};
template <ProductOrder kOrder>
using SmallTile = Tile<1, 1, kOrder>;
template <ProductOrder kOrder>
using LargeTile = Tile<2, 2, kOrder>;

// Begins to copy a unit of the block's outputs and closes the group.
__device__ void CopyUnit(const WeightView& weight, int64_t first_output,
                         int64_t unit, unsigned char* stage) {
  constexpr int kParts = kUnitBytes / 16;
  if (unit < Units(weight)) {
#pragma unroll
    for (int i = 0; i < kOutputs * kParts / kThreads; ++i) {
      const int part = i * kThreads + threadIdx.x;
      const int row = part / kParts;
      // What is computed of outputs behind the last is dropped.
      const int64_t output = first_output + row < weight.outputs
                                 ? first_output + row
                                 : weight.outputs - 1;
      CopyPart(weight, output, unit, part % kParts, stage + row * kRowBytes);
    }
  }
  AsyncCommit();
}

template <class T>
__device__ void LoadUnit(const ProductArguments& product, int64_t first_token,
                         int64_t unit, float4 (&fours)[T::kFours]) {
  constexpr int kRowFours = kUnitInputs / 4;
#pragma unroll
  for (int i = 0; i < T::kFours; ++i) {
    const int four = i * kThreads + threadIdx.x;
    fours[i] = LoadFour(product, first_token + four / kRowFours,
                        unit * kUnitInputs + four % kRowFours * 4);
  }
}

template <class T, class Step>
__device__ void StoreUnit(const float4 (&fours)[T::kFours],
                          unsigned char* stage) {
  constexpr int kRowFours = kUnitInputs / 4;
#pragma unroll
  for (int i = 0; i < T::kFours; ++i) {
    const int four = i * kThreads + threadIdx.x;
    const int token = four / kRowFours;
    constexpr bool kTwo = TermsOf(T::kOrder) == 2;
    const int row = kTwo ? token / 8 * 16 + token % 8 : token;
    unsigned char* const place = stage + row * kRowBytes + four % kRowFours * 8;
    *reinterpret_cast<uint2*>(place) = NarrowFour<Step>(fours[i]);
    if constexpr (kTwo) {
      *reinterpret_cast<uint2*>(place + 8 * kRowBytes) =
          NarrowRests<Step>(fours[i]);
    }
  }
}

template <class T, class Step>
__device__ void AddUnit(const WeightView& weight, int64_t unit,
                        const unsigned char* weights,
                        const unsigned char* tokens, T& tile) {
  const int warp = threadIdx.x / 32;
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  const unsigned char* const rows =
      tokens + (warp % T::kRowWarps * T::kRowTiles * 16 + group) * kRowBytes;
  const unsigned char* const columns =
      weights + (warp / T::kRowWarps * T::kColumnTiles * 8 + group) * kRowBytes;
  const int steps = StepsOf(weight, unit);
  for (int step = 0; step < steps; ++step) {
    uint2 w[T::kColumnTiles];
#pragma unroll
    for (int column = 0; column < T::kColumnTiles; ++column) {
      w[column] = FourOf(columns + column * 8 * kRowBytes, step, quad);
    }
#pragma unroll
    for (int row = 0; row < T::kRowTiles; ++row) {
      const uint2 upper = FourOf(rows + row * 16 * kRowBytes, step, quad);
      const uint2 lower = FourOf(rows + (row * 16 + 8) * kRowBytes, step, quad);
#pragma unroll
      for (int column = 0; column < T::kColumnTiles; ++column) {
        Step::Add(tile.sums[row][column], {upper.x, lower.x, upper.y, lower.y},
                  {w[column].x, w[column].y});
      }
    }
  }
}

// total += sums, and sums = 0: the end of a segment.
template <class T>
__device__ void AddSegment(T& sums, T& total) {
#pragma unroll
  for (int row = 0; row < T::kRowTiles; ++row) {
#pragma unroll
    for (int column = 0; column < T::kColumnTiles; ++column) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        total.sums[row][column][i] =
            total.sums[row][column][i] + sums.sums[row][column][i];
        sums.sums[row][column][i] = 0.0f;
      }
    }
  }
}

template <class T>
__device__ void FinishTile(const ProductArguments& product, int64_t first_token,
                           int64_t first_output, T& tile) {
  constexpr bool kTwo = TermsOf(T::kOrder) == 2;
  const int warp = threadIdx.x / 32;
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
#pragma unroll
  for (int row = 0; row < T::kRowTiles; ++row) {
    const int64_t token =
        first_token +
        (warp % T::kRowWarps * T::kRowTiles + row) * (kTwo ? 8 : 16) + group;
#pragma unroll
    for (int column = 0; column < T::kColumnTiles; ++column) {
      const int64_t output =
          first_output + (warp / T::kRowWarps * T::kColumnTiles + column) * 8 +
          quad * 2;
      float(&sums)[4] = tile.sums[row][column];
      if constexpr (kTwo) AddSecondTerms(sums);
      Finish(product, token, output, sums[0]);
      Finish(product, token, output + 1, sums[1]);
      if constexpr (kTwo) continue;
      Finish(product, token + 8, output, sums[2]);
      Finish(product, token + 8, output + 1, sums[3]);
    }
  }
}

template <class T, class Step>
__global__ void __launch_bounds__(kThreads)
    TileKernel(ProductArguments product) {
  unsigned char* const weights = DynamicShared<unsigned char>();
  unsigned char* const tokens = weights + kStages * kWeightStageBytes;
  const int64_t first_output = int64_t{blockIdx.x} * kOutputs;
  const int64_t first_token = int64_t{blockIdx.y} * T::kTokens;
  const int64_t units = Units(product.weight);
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) {
    CopyUnit(product.weight, first_output, stage,
             weights + stage * kWeightStageBytes);
  }
  GridWait();
  GridTrigger();
  float4 fours[T::kFours];
  LoadUnit<T>(product, first_token, 0, fours);
  StoreUnit<T, Step>(fours, tokens);
  T tile = {}, total = {};
  int64_t segment = 1;
  for (int64_t unit = 0; unit < units; ++unit) {
    AsyncWait<kStages - 2>();
    BlockBarrier();
    // Into the place of the unit before, which all warps are through with.
    const int64_t ahead = unit + kStages - 1;
    CopyUnit(product.weight, first_output, ahead,
             weights + ahead % kStages * kWeightStageBytes);
    if (unit + 1 < units) LoadUnit<T>(product, first_token, unit + 1, fours);
    AddUnit<T, Step>(product.weight, unit,
                     weights + unit % kStages * kWeightStageBytes,
                     tokens + unit % 2 * T::kTokenStageBytes, tile);
    if (unit + 1 < units) {
      StoreUnit<T, Step>(fours, tokens + (unit + 1) % 2 * T::kTokenStageBytes);
    }
    if constexpr (T::kOrder == ProductOrder::kSplit8) {
      while (FirstUnit(segment, units) <= unit) ++segment;
      if (FirstUnit(segment, units) == unit + 1) AddSegment(tile, total);
    }
  }
  FinishTile(product, first_token, first_output,
             T::kOrder == ProductOrder::kSplit8 ? total : tile);
}

template <class T, class Step>
cudaError_t LaunchTile(cudaStream_t stream, const ProductArguments& product) {
  const WeightView& weight = product.weight;
  LaunchShape shape;
  shape.grid = dim3(
      static_cast<unsigned>((weight.outputs + kOutputs - 1) / kOutputs),
      static_cast<unsigned>((product.tokens + T::kTokens - 1) / T::kTokens));
  shape.block = dim3(kThreads);
  shape.shared_bytes = T::kSharedBytes;
  return Launch(shape, stream, TileKernel<T, Step>, product);
}

template <class Step, ProductOrder kOrder>
cudaError_t LaunchInOrder(cudaStream_t stream,
                          const ProductArguments& product) {
  // Up to so many tokens small tiles leave less of the device idle.
  constexpr int64_t kFewTokens = 32;
  return product.tokens <= kFewTokens
             ? LaunchTile<SmallTile<kOrder>, Step>(stream, product)
             : LaunchTile<LargeTile<kOrder>, Step>(stream, product);
}

template <class Step>
cudaError_t LaunchFor(cudaStream_t stream, const ProductArguments& product) {
  switch (OrderOf(product.weight.outputs, product.weight.inputs)) {
    case ProductOrder::kTwoTerms:
      return LaunchInOrder<Step, ProductOrder::kTwoTerms>(stream, product);
    case ProductOrder::kPlain:
      return LaunchInOrder<Step, ProductOrder::kPlain>(stream, product);
    case ProductOrder::kSplit8:
      return LaunchInOrder<Step, ProductOrder::kSplit8>(stream, product);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t TileProduct(cudaStream_t stream, const WeightView& weight,
                        int64_t tokens, ConstMatrix x,
                        const MatMulOptions& options, Matrix y) {
  const ProductArguments product = ArgumentsOf(weight, tokens, x, options, y);
  return weight.format == WeightFormat::kBFloat16
             ? LaunchFor<BFloat16Step>(stream, product)
             : LaunchFor<Float16Step>(stream, product);
}

}  // namespace engram::cuda
