// Products of any number of tokens with weights of 16 or 8 bits.
//
// A block computes a tile, of 16 tokens and 64 outputs or up to 128 of both.
// Units of 64 inputs pass through shared memory: weights by copies that are
// begun some units ahead, tokens likewise if the tile is small and else by
// registers, and rounded to the weight's format while the unit before is
// multiplied. Each block reads its outputs' weights and its tokens once; blocks
// of the same outputs begin together, so that the weights come from memory
// once. With second terms a tile has half as many tokens.
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/product_parts.h"

namespace engram::cuda {
namespace {

// How a block's warps share its tile: `kRowWarps` side by side over the tokens,
// each with `kRowTiles` times 16 rows of the tensor cores, and `kColumnWarps`
// over the outputs.
template <int kRowTilesOf, int kRowWarpsOf, int kColumnWarpsOf, int kOutputsOf,
          int kStagesOf, ProductOrder kOrderOf>
struct Tile {
  static constexpr ProductOrder kOrder = kOrderOf;
  static constexpr int kOutputs = kOutputsOf;
  static constexpr int kStages = kStagesOf;  // of weights
  static constexpr int kThreads = 32 * kRowWarpsOf * kColumnWarpsOf;
  static constexpr int kRowTiles = kRowTilesOf;
  static constexpr int kRowWarps = kRowWarpsOf;
  static constexpr int kRows = 16 * kRowTiles * kRowWarps;
  static constexpr int kTokens = kRows / TermsOf(kOrder);
  static constexpr int kColumnTiles = kOutputs / 8 / kColumnWarpsOf;
  static constexpr int kTokenStageBytes = kRows * kRowBytes;
  // Units that tokens are fetched ahead.
  static constexpr int kTokenUnitsAhead = kRows <= 32 ? kStages - 1 : 1;
  // Four inputs each, that a thread has of a unit.
  static constexpr int kFours = kTokens * (kUnitInputs / 4) / kThreads;
  float sums[kRowTiles][kColumnTiles][4];
};
template <ProductOrder kOrder>
using Tile16 = Tile<1, 1, 4, 64, 6, kOrder>;
template <ProductOrder kOrder>
using Tile32 = Tile<2, 1, 4, 64, 5, kOrder>;
template <ProductOrder kOrder>
using Tile64 = Tile<2, 2, 2, 64, 4, kOrder>;
// Sums of segments or units and their total take twice the registers.
template <ProductOrder kOrder, class Step>
using LargeTile =
    std::conditional_t<kOrder == ProductOrder::kSplit8 || Step::kHasScales,
                       Tile<2, 2, 4, 128, 3, kOrder>,
                       Tile<4, 2, 4, 128, 3, kOrder>>;

// Begins to copy a unit of the block's outputs.
template <class T, class Step>
__device__ void CopyUnit(const WeightView& weight, int64_t first_output,
                         int64_t unit, unsigned char* stage) {
  constexpr int kParts = kWeightUnitBytes<Step> / 16;
  if (unit < Units(weight)) {
#pragma unroll
    for (int i = 0; i < T::kOutputs * kParts / T::kThreads; ++i) {
      const int part = i * T::kThreads + threadIdx.x;
      const int row = part / kParts;
      // What is computed of outputs behind the last is dropped.
      const int64_t output = first_output + row < weight.outputs
                                 ? first_output + row
                                 : weight.outputs - 1;
      CopyPart<Step>(weight, output, unit, part % kParts,
                     stage + row * kWeightRowBytes<Step>);
    }
    if constexpr (Step::kHasScales) {
      if (threadIdx.x < T::kOutputs / 4) {
        CopyScales(weight, first_output, unit, threadIdx.x,
                   stage + ScalesOffset<Step>(T::kOutputs));
      }
    }
  }
}

// This thread's inputs of units on their way from memory: of one in registers,
// of more in places of shared memory that no other thread touches.
template <class T>
class FetchedTokens {
 public:
  static constexpr bool kAreInRegisters = T::kTokenUnitsAhead == 1;
  static constexpr int kSharedBytes =
      kAreInRegisters ? 0
                      : T::kStages * T::kFours * T::kThreads *
                            static_cast<int>(sizeof(float4));

  __device__ FetchedTokens(const ProductArguments& product, int64_t first_token,
                           unsigned char* shared)
      : product_(product),
        first_token_(first_token),
        places_(reinterpret_cast<float4*>(shared)) {}

  // Begins to fetch a unit, if there is one, as part of the next group.
  __device__ void Fetch(int64_t unit, int stage) {
    if (unit >= Units(product_.weight)) return;
    constexpr int kRowFours = kUnitInputs / 4;
#pragma unroll
    for (int i = 0; i < T::kFours; ++i) {
      const int four = i * T::kThreads + threadIdx.x;
      const int64_t token = first_token_ + four / kRowFours;
      const int64_t k = unit * kUnitInputs + four % kRowFours * 4;
      if constexpr (kAreInRegisters) {
        fours_[i] = LoadFour(product_, token, k);
      } else if (product_.x_aligned && token < product_.tokens &&
                 k + 4 <= product_.weight.inputs) {
        AsyncCopy16(Place(stage, i), At(product_.x, token, k));
      } else {
        *Place(stage, i) = LoadFour(product_, token, k);
      }
    }
  }
  // Of the unit that was fetched into this stage, of 0 <= i < kFours.
  __device__ float4 Four(int stage, int i) const {
    if constexpr (kAreInRegisters) {
      return fours_[i];
    } else {
      return *Place(stage, i);
    }
  }

 private:
  __device__ float4* Place(int stage, int i) const {
    return places_ + (stage * T::kFours + i) * T::kThreads + threadIdx.x;
  }

  const ProductArguments& product_;
  const int64_t first_token_;
  float4* const places_;
  float4 fours_[kAreInRegisters ? T::kFours : 1];
};

template <class T, class Step>
__device__ void StoreUnit(const FetchedTokens<T>& fetched, int stage,
                          unsigned char* tokens) {
  constexpr int kRowFours = kUnitInputs / 4;
#pragma unroll
  for (int i = 0; i < T::kFours; ++i) {
    const int four = i * T::kThreads + threadIdx.x;
    const int token = four / kRowFours;
    constexpr bool kTwo = TermsOf(T::kOrder) == 2;
    const int row = kTwo ? token / 8 * 16 + token % 8 : token;
    unsigned char* const place =
        tokens + row * kRowBytes + four % kRowFours * 8;
    const float4 value = fetched.Four(stage, i);
    *reinterpret_cast<uint2*>(place) = NarrowFour<Step>(value);
    if constexpr (kTwo) {
      *reinterpret_cast<uint2*>(place + 8 * kRowBytes) =
          NarrowRests<Step>(value);
    }
  }
}

// The first of this warp's outputs in the block's.
template <class T>
__device__ int FirstColumn() {
  return threadIdx.x / 32 / T::kRowWarps * T::kColumnTiles * 8;
}

// A step of this warp's rows and columns of a unit.
template <class T, class Step>
__device__ void AddStep(const unsigned char* rows, const unsigned char* columns,
                        int step, T& tile) {
  const int quad = threadIdx.x % 4;
  uint2 w[T::kColumnTiles];
#pragma unroll
  for (int column = 0; column < T::kColumnTiles; ++column) {
    w[column] = FourWeights<Step>(columns + column * 8 * kWeightRowBytes<Step>,
                                  step, quad);
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

template <class T, class Step>
__device__ void AddSteps(const WeightView& weight, int64_t unit,
                         const unsigned char* weights,
                         const unsigned char* tokens, T& tile) {
  const int warp = threadIdx.x / 32;
  const int group = threadIdx.x % 32 / 4;
  const unsigned char* const rows =
      tokens + (warp % T::kRowWarps * T::kRowTiles * 16 + group) * kRowBytes;
  const unsigned char* const columns =
      weights + (FirstColumn<T>() + group) * kWeightRowBytes<Step>;
  const int steps = StepsOf(weight, unit);
  if (steps == kUnitSteps) {
    // A step's factors are loaded while the one before is added.
#pragma unroll
    for (int step = 0; step < kUnitSteps; ++step) {
      AddStep<T, Step>(rows, columns, step, tile);
    }
    return;
  }
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    AddStep<T, Step>(rows, columns, step, tile);
  }
}

template <class T, class Step>
__device__ void AddUnit(const WeightView& weight, int64_t unit,
                        const unsigned char* weights,
                        const unsigned char* tokens, T& tile) {
  if constexpr (!Step::kHasScales) {
    AddSteps<T, Step>(weight, unit, weights, tokens, tile);
  } else {
    T sums = {};
    AddSteps<T, Step>(weight, unit, weights, tokens, sums);
    const unsigned char* const scales =
        weights + ScalesOffset<Step>(T::kOutputs) + FirstColumn<T>() * 4;
#pragma unroll
    for (int row = 0; row < T::kRowTiles; ++row) {
#pragma unroll
      for (int column = 0; column < T::kColumnTiles; ++column) {
        AddScaled(scales + column * 32, sums.sums[row][column],
                  tile.sums[row][column]);
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
      Finish<2>(product, token, output, {sums[0], sums[1]});
      if constexpr (kTwo) continue;
      Finish<2>(product, token + 8, output, {sums[2], sums[3]});
    }
  }
}

template <class T, class Step>
__global__ void __launch_bounds__(T::kThreads, 1)
    TileKernel(ProductArguments all) {
  const ProductArguments product = ThisPart(all);
  unsigned char* const weights = DynamicShared<unsigned char>();
  constexpr int kStageBytes = StageBytes<Step>(T::kOutputs);
  unsigned char* const tokens = weights + T::kStages * kStageBytes;
  const int64_t first_token = int64_t{blockIdx.x} * T::kTokens;
  const int64_t first_output = int64_t{blockIdx.y} * T::kOutputs;
  const int64_t units = Units(product.weight);
#pragma unroll
  for (int stage = 0; stage < T::kStages - 1; ++stage) {
    CopyUnit<T, Step>(product.weight, first_output, stage,
                      weights + stage * kStageBytes);
    AsyncCommit();
  }
  GridWait();
  GridTrigger();
  FetchedTokens<T> fetched(product, first_token,
                           tokens + 2 * T::kTokenStageBytes);
#pragma unroll
  for (int unit = 0; unit < T::kTokenUnitsAhead; ++unit) {
    fetched.Fetch(unit, unit);
    AsyncCommit();
  }
  AsyncWait<T::kStages - 2>();
  StoreUnit<T, Step>(fetched, 0, tokens);
  T tile = {}, total = {};
  int64_t segment = 1;
  int stage = 0;
  for (int64_t unit = 0; unit < units; ++unit) {
    BlockBarrier();
    // Into the place of the unit before, which all warps are through with.
    const int free_stage = stage == 0 ? T::kStages - 1 : stage - 1;
    CopyUnit<T, Step>(product.weight, first_output, unit + T::kStages - 1,
                      weights + free_stage * kStageBytes);
    fetched.Fetch(unit + T::kTokenUnitsAhead, free_stage);
    AsyncCommit();
    AddUnit<T, Step>(product.weight, unit, weights + stage * kStageBytes,
                     tokens + unit % 2 * T::kTokenStageBytes, tile);
    // For the next unit, which others see behind the barrier.
    AsyncWait<T::kStages - 2>();
    stage = stage == T::kStages - 1 ? 0 : stage + 1;
    if (unit + 1 < units) {
      StoreUnit<T, Step>(fetched, stage,
                         tokens + (unit + 1) % 2 * T::kTokenStageBytes);
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
  const auto tiles = [](int64_t count, int64_t size) {
    return static_cast<unsigned>((count + size - 1) / size);
  };
  LaunchShape shape;
  shape.grid = dim3(tiles(product.tokens, T::kTokens),
                    tiles(product.weight.outputs, T::kOutputs),
                    static_cast<unsigned>(product.parts));
  shape.block = dim3(T::kThreads);
  shape.shared_bytes = T::kStages * StageBytes<Step>(T::kOutputs) +
                       2 * T::kTokenStageBytes + FetchedTokens<T>::kSharedBytes;
  return Launch(shape, stream, TileKernel<T, Step>, product);
}

template <class Step, ProductOrder kOrder>
cudaError_t LaunchInOrder(cudaStream_t stream, TileSize size,
                          const ProductArguments& product) {
  switch (size) {
    case TileSize::k16:
      return LaunchTile<Tile16<kOrder>, Step>(stream, product);
    case TileSize::k32:
      return LaunchTile<Tile32<kOrder>, Step>(stream, product);
    case TileSize::k64:
      return LaunchTile<Tile64<kOrder>, Step>(stream, product);
    case TileSize::kLarge:
      return LaunchTile<LargeTile<kOrder, Step>, Step>(stream, product);
  }
  return cudaErrorInvalidValue;
}

template <class Step>
cudaError_t LaunchFor(cudaStream_t stream, TileSize size,
                      const ProductArguments& product) {
  switch (OrderOf(product.weight.outputs, product.weight.inputs)) {
    case ProductOrder::kTwoTerms:
      return LaunchInOrder<Step, ProductOrder::kTwoTerms>(stream, size,
                                                          product);
    case ProductOrder::kPlain:
      return LaunchInOrder<Step, ProductOrder::kPlain>(stream, size, product);
    case ProductOrder::kSplit8:
      return LaunchInOrder<Step, ProductOrder::kSplit8>(stream, size, product);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

TileSize TileSizeOf(const WeightView& weight, int64_t tokens) {
  // Large tiles read least, where there are enough of them for all
  // multiprocessors of a device.
  constexpr int64_t kManyTiles = 128;
  const int64_t rows = tokens * TermsOf(OrderOf(weight.outputs, weight.inputs));
  if (rows <= 16) return TileSize::k16;
  if (rows <= 32) return TileSize::k32;
  const int64_t large = (rows + 127) / 128 * ((weight.outputs + 127) / 128);
  return rows > 64 && large >= kManyTiles ? TileSize::kLarge : TileSize::k64;
}

cudaError_t TileProduct(cudaStream_t stream, const ProductArguments& product) {
  return TileProduct(stream, TileSizeOf(product.weight, product.tokens),
                     product);
}

cudaError_t TileProduct(cudaStream_t stream, TileSize size,
                        const ProductArguments& product) {
  switch (product.weight.format) {
    case WeightFormat::kFloat32:
      break;
    case WeightFormat::kBFloat16:
      return LaunchFor<BFloat16Step>(stream, size, product);
    case WeightFormat::kFloat16:
      return LaunchFor<Float16Step>(stream, size, product);
    case WeightFormat::kInt8:
      return LaunchFor<Int8Step>(stream, size, product);
    case WeightFormat::kInt4:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace engram::cuda
