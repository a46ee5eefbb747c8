// Products of any number of tokens with weights of 16 or 8 bits.
//
// A block computes a tile, of 16 tokens and 32 outputs or up to 128 of both.
// Units of 64 inputs pass through shared memory: weights by copies that are
// begun some units ahead, tokens likewise unless the tile is large, which has
// them in registers; they are rounded to the weight's format while the unit
// before is multiplied. Each block reads its outputs' weights and its tokens
// once; blocks of the same outputs begin together, so that the weights come
// from memory once. With second terms a tile has half as many tokens.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/product_parts.h"

namespace engram::cuda {
namespace {

// Rows g and g + 8 of the tensor cores' 16 lie together in shared memory, two
// inputs of the one before the same two of the other: a lane's factors of a
// step are 16 bytes, in the order that it has them in registers. The bytes from
// one pair of rows to the next let the loads of a warp meet all banks alike.
constexpr int kPairBytes = 2 * kRowBytes;
struct alignas(16) PairFactors {
  uint32_t of[4];
};

// How a block's warps share its tile: `kRowWarps` side by side over the tokens,
// each with `kRowTiles` times 16 rows of the tensor cores, and `kColumnWarps`
// over the outputs, each with `kColumnTiles` times 8.
template <int kRowTilesOf, int kRowWarpsOf, int kColumnTilesOf,
          int kColumnWarpsOf, int kStagesOf, ProductOrder kOrderOf>
struct Tile {
  static constexpr ProductOrder kOrder = kOrderOf;
  static constexpr int kStages = kStagesOf;  // of weights
  static constexpr int kThreads = 32 * kRowWarpsOf * kColumnWarpsOf;
  static constexpr int kRowTiles = kRowTilesOf;
  static constexpr int kRowWarps = kRowWarpsOf;
  static constexpr int kRows = 16 * kRowTiles * kRowWarps;
  static constexpr int kTokens = kRows / TermsOf(kOrder);
  static constexpr int kColumnTiles = kColumnTilesOf;
  static constexpr int kOutputs = 8 * kColumnTiles * kColumnWarpsOf;
  static constexpr int kTokenStageBytes = kRows / 2 * kPairBytes;
  static constexpr bool kIsLarge = kRows * kOutputs > 64 * 64;
  // Four inputs each, that a thread has of a unit; and how many times it has
  // registers for a part of them.
  static constexpr int kFours = kTokens * (kUnitInputs / 4) / kThreads;
  static constexpr int kFetches = kIsLarge ? kFours / 2 : 1;
  float sums[kRowTiles][kColumnTiles][4];
};
template <ProductOrder kOrder>
using Tile16 = Tile<1, 1, 2, 4, 6, kOrder>;
template <ProductOrder kOrder>
using Tile32 = Tile<2, 1, 2, 4, 5, kOrder>;
template <ProductOrder kOrder>
using Tile64 = Tile<2, 2, 4, 2, 3, kOrder>;
// Of half as many outputs, and with more units on their way: where there are so
// few that all blocks together ask for less than memory could bring.
template <ProductOrder kOrder>
using Tile16OfFew = Tile<1, 1, 1, 4, 8, kOrder>;
template <ProductOrder kOrder>
using Tile32OfFew = Tile<1, 2, 1, 4, 7, kOrder>;
// Sums of segments or units and their total take twice the registers.
template <ProductOrder kOrder, class Step>
using LargeTile =
    std::conditional_t<kOrder == ProductOrder::kSplit8 || Step::kHasScales,
                       Tile<2, 2, 4, 4, 3, kOrder>,
                       Tile<4, 2, 4, 4, 3, kOrder>>;

// This thread's share of the units of weights, which it copies one after the
// other: 16 bytes of each `kRowStep`th row. Where they are is found once, and
// moves on by the same bytes each time.
template <class T, class Step>
class WeightCopies {
 public:
  __device__ WeightCopies(const WeightView& weight, int64_t first_output) {
    const int row = static_cast<int>(threadIdx.x) / kParts;
    const int part = static_cast<int>(threadIdx.x) % kParts;
    const auto row_bytes =
        static_cast<uint32_t>(weight.stride) * Step::kWeightBytes;
    place_ = row * kWeightRowBytes<Step> + part * 16;
    left_ = row < T::kOutputs ? static_cast<int>(weight.stride) -
                                    part * (16 / Step::kWeightBytes)
                              : 0;
    source_ = static_cast<const unsigned char*>(weight.values) +
              first_output * row_bytes + part * 16;
    source_ += row * static_cast<int64_t>(row_bytes);
    row_step_ = kRowStep * row_bytes;
    outputs_ = static_cast<int>(weight.outputs - first_output) - row;
    if constexpr (Step::kHasScales) {
      const int64_t output = first_output + threadIdx.x * 4;
      units_ = threadIdx.x < T::kOutputs / 4 && output < weight.outputs
                   ? static_cast<int>(Units(weight))
                   : 0;
      scales_ = weight.scales + weight.ScalePlace(output, 0);
    }
  }

  // Begins to copy the next unit, if there is one, as part of the next group.
  __device__ void CopyNext(unsigned char* stage) {
    if (left_ > 0) {
      const unsigned char* source = source_;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        // What is computed of outputs behind the last is dropped.
        if (i * kRowStep < outputs_) {
          AsyncCopy16(stage + place_ + i * kRowStep * kWeightRowBytes<Step>,
                      source);
        }
        source += row_step_;
      }
    }
    left_ -= kUnitInputs;
    source_ += kWeightUnitBytes<Step>;
    if constexpr (Step::kHasScales) {
      if (units_ > 0) {
        AsyncCopy16(stage + ScalesOffset<Step>(T::kOutputs) + threadIdx.x * 16,
                    scales_);
      }
      --units_;
      scales_ += WeightView::kOutputsMultiple;
    }
  }

 private:
  static constexpr int kParts = kWeightUnitBytes<Step> / 16;
  static constexpr int kRowStep = T::kThreads / kParts;
  static constexpr int kCopies =
      kRowStep < T::kOutputs ? T::kOutputs / kRowStep : 1;

  int place_;  // in a stage
  int left_;   // inputs, from the next ones on
  const unsigned char* source_;
  uint32_t row_step_;  // bytes
  int outputs_;        // from this thread's first on
  // Of those that copy scales.
  int units_ = 0;
  const float* scales_ = nullptr;
};

// Whether four inputs of a token can always be loaded at once.
__host__ __device__ inline bool HasWholeFours(const ProductArguments& product) {
  return product.x_aligned && product.weight.inputs % 4 == 0;
}

// This thread's inputs of units on their way from memory, four of each
// `kRowStep`th token: of one unit in registers, of more in places of shared
// memory that no other thread touches. Large tiles REQUIRE HasWholeFours.
template <class T>
class FetchedTokens {
 public:
  static constexpr bool kAreInRegisters = T::kIsLarge;
  static constexpr int kSharedBytes =
      kAreInRegisters ? 0
                      : T::kStages * T::kFours * T::kThreads *
                            static_cast<int>(sizeof(float4));

  __device__ FetchedTokens(const ProductArguments& product, int64_t first_token,
                           unsigned char* shared)
      : k_(static_cast<int>(threadIdx.x) % kRowFours * 4),
        inputs_(static_cast<int>(product.weight.inputs)),
        tokens_(static_cast<int>(product.tokens - first_token) - FirstToken()),
        is_aligned_(product.x_aligned),
        are_whole_(HasWholeFours(product)),
        stride_(static_cast<uint32_t>(product.x.stride)),
        source_(At(product.x, first_token + FirstToken(), k_)),
        places_(reinterpret_cast<float4*>(shared) + threadIdx.x) {}

  // Begins to fetch the next unit, or the part of it that there are registers
  // for, as part of the next group. Zeros behind the last input; what is
  // computed of tokens behind the last is dropped.
  __device__ void FetchNext(int stage, int part = 0) {
    if constexpr (kAreInRegisters) {
      FetchIntoRegisters(part);
    } else if (are_whole_ && k_ < inputs_) {
      BeginCopies(stage);
    } else {
      FetchParts(stage);
    }
    if (part + 1 < T::kFetches) return;
    k_ += kUnitInputs;
    source_ += kUnitInputs;
  }

  // Those of the unit that was fetched into this stage: to be rounded.
  __device__ void Take(int stage) {
    if constexpr (!kAreInRegisters) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) fours_[i] = *Place(stage, i);
    }
  }

  // What was taken, in the weight's format.
  template <class Step>
  __device__ void Store(unsigned char* tokens, int part = 0) const {
    unsigned char* const place = tokens + Row() * kPairBytes +
                                 static_cast<int>(threadIdx.x) % kRowFours * 16;
#pragma unroll
    for (int i = 0; i < kHeldPairs; ++i) {
      uint2 upper, lower;
      if constexpr (TermsOf(T::kOrder) == 2) {
        upper = NarrowFour<Step>(fours_[i]);
        lower = NarrowRests<Step>(fours_[i]);
      } else {
        upper = NarrowFour<Step>(fours_[i * 2]);
        lower = NarrowFour<Step>(fours_[i * 2 + 1]);
      }
      *reinterpret_cast<PairFactors*>(place + (part * kHeldPairs + i) *
                                                  kRowStep * kPairBytes) = {
          upper.x, lower.x, upper.y, lower.y};
    }
  }

 private:
  static constexpr int kRowFours = kUnitInputs / 4;
  // Pairs of rows from one of this thread's to its next.
  static constexpr int kRowStep = T::kThreads / kRowFours;
  static_assert(kRowStep % 8 == 0, "sixteen rows are eight pairs");
  static constexpr int kHeld = T::kFours / T::kFetches;
  static constexpr int kHeldPairs = kHeld * TermsOf(T::kOrder) / 2;
  static_assert(kHeldPairs > 0, "a thread has both rows of a pair");

  // The first of this thread's pairs of rows, and its upper token.
  __device__ static int Row() {
    return static_cast<int>(threadIdx.x) / kRowFours;
  }
  __device__ static int FirstToken() {
    return TermsOf(T::kOrder) == 2 ? Row() : Row() / 8 * 16 + Row() % 8;
  }
  // From there to that of the four inputs of this number.
  __device__ static constexpr int ToToken(int four) {
    return TermsOf(T::kOrder) == 2 ? four * kRowStep
                                   : four / 2 * kRowStep * 2 + four % 2 * 8;
  }
  __device__ const float* Source(int four) const {
    return source_ + ToToken(four) * stride_;
  }
  __device__ float4* Place(int stage, int i) const {
    return places_ + (stage * T::kFours + i) * T::kThreads;
  }

  __device__ void FetchIntoRegisters(int part) {
    const float* source = Source(part * kHeld);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int four = part * kHeld + i;
      fours_[i] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (ToToken(four) < tokens_ && k_ < inputs_) {
        fours_[i] = Load(reinterpret_cast<const float4*>(source));
      }
      source += (ToToken(four + 1) - ToToken(four)) * stride_;
    }
  }
  __device__ void BeginCopies(int stage) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (ToToken(i) < tokens_) AsyncCopy16(Place(stage, i), Source(i));
    }
  }
  // Where some of four may not exist, or they cannot be loaded at once.
  __device__ void FetchParts(int stage) {
#pragma unroll 1
    for (int i = 0; i < kHeld; ++i) {
      const int left = ToToken(i) < tokens_ ? inputs_ - k_ : 0;
      *Place(stage, i) = LoadFour(Source(i), left, is_aligned_);
    }
  }

  int k_;  // of the next four
  const int inputs_;
  const int tokens_;  // from this thread's first on
  const bool is_aligned_;
  const bool are_whole_;
  const uint32_t stride_;
  const float* source_;
  float4* const places_;
  float4 fours_[kHeld];
};

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
    const PairFactors x = *reinterpret_cast<const PairFactors*>(
        rows + row * 8 * kPairBytes + step * kStepInputs * 4 + quad * 16);
#pragma unroll
    for (int column = 0; column < T::kColumnTiles; ++column) {
      Step::Add(tile.sums[row][column], x.of, {w[column].x, w[column].y});
    }
  }
}

// Adds a unit to the sums, and calls between(step) in front of each step but
// the first, unless it has fewer, which only the last unit can have.
template <class T, class Step, class Between>
__device__ void AddSteps(const WeightView& weight, int unit,
                         const unsigned char* weights,
                         const unsigned char* tokens, T& tile,
                         const Between& between) {
  const int warp = threadIdx.x / 32;
  const int group = threadIdx.x % 32 / 4;
  const unsigned char* const rows =
      tokens + (warp % T::kRowWarps * T::kRowTiles * 8 + group) * kPairBytes;
  const unsigned char* const columns =
      weights + (FirstColumn<T>() + group) * kWeightRowBytes<Step>;
  const int inputs = static_cast<int>(weight.stride) - unit * kUnitInputs;
  if (inputs >= kUnitInputs) {
    // A step's factors are loaded while the one before is added.
#pragma unroll
    for (int step = 0; step < kUnitSteps; ++step) {
      if (step > 0) between(step);
      AddStep<T, Step>(rows, columns, step, tile);
    }
    return;
  }
#pragma unroll 1
  for (int step = 0; step < inputs / kStepInputs; ++step) {
    AddStep<T, Step>(rows, columns, step, tile);
  }
}

template <class T, class Step, class Between>
__device__ void AddUnit(const WeightView& weight, int unit,
                        const unsigned char* weights,
                        const unsigned char* tokens, T& tile,
                        const Between& between) {
  if constexpr (!Step::kHasScales) {
    AddSteps<T, Step>(weight, unit, weights, tokens, tile, between);
  } else {
    T sums = {};
    AddSteps<T, Step>(weight, unit, weights, tokens, sums, between);
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

// Where this thread's sums of the first row and column of its warp belong.
template <class T>
struct SumsPlace {
  // Tokens from one row of sums to the next eight.
  static constexpr int kRowTokens = TermsOf(T::kOrder) == 2 ? 8 : 16;
  int token = static_cast<int>(threadIdx.x) / 32 % T::kRowWarps * T::kRowTiles *
                  kRowTokens +
              static_cast<int>(threadIdx.x) % 32 / 4;
  int output = FirstColumn<T>() + static_cast<int>(threadIdx.x) % 4 * 2;
};

// Calls body(row, token, half) for each of this thread's tokens, whose sums
// are those of `row` from 2 half on.
template <class T, class Body>
__device__ void EachToken(const Body& body) {
  const SumsPlace<T> place;
#pragma unroll
  for (int row = 0; row < T::kRowTiles; ++row) {
    body(row, place.token + row * SumsPlace<T>::kRowTokens, 0);
    if constexpr (TermsOf(T::kOrder) == 1) {
      body(row, place.token + row * SumsPlace<T>::kRowTokens + 8, 1);
    }
  }
}

template <class T>
__device__ void AddBias(const float* bias, T& tile) {
#pragma unroll
  for (int column = 0; column < T::kColumnTiles; ++column) {
    const float even = LoadConstant(bias + column * 8);
    const float odd = LoadConstant(bias + column * 8 + 1);
#pragma unroll
    for (int row = 0; row < T::kRowTiles; ++row) {
      float(&sums)[4] = tile.sums[row][column];
      sums[0] = sums[0] + even;
      sums[1] = sums[1] + odd;
      sums[2] = sums[2] + even;
      sums[3] = sums[3] + odd;
    }
  }
}

// The end of most products, of sums that are stored as they are or added to
// what is there: by pairs, from registers.
template <class T>
__device__ bool EndsSimply(const ProductArguments& product,
                           int64_t first_output) {
  return product.options.activation == Activation::kNone &&
         product.convolution.channels == 0 && product.y_aligned &&
         first_output + T::kOutputs <= product.weight.outputs;
}
template <class T>
__device__ void FinishSimply(const ProductArguments& product,
                             int64_t first_token, int64_t first_output,
                             T& tile) {
  const int64_t output = first_output + SumsPlace<T>().output;
  if (product.options.bias != nullptr) {
    AddBias(product.options.bias + output, tile);
  }
  const int64_t tokens = product.tokens - first_token;
  float* const y = At(product.y, first_token, output);
  EachToken<T>([&](int row, int token, int half) {
    if (token >= tokens) return;
    float* const to = y + token * product.y.stride;
    Values<2> sums[T::kColumnTiles];
#pragma unroll
    for (int column = 0; column < T::kColumnTiles; ++column) {
      const float(&of)[4] = tile.sums[row][column];
      sums[column] = {of[half * 2], of[half * 2 + 1]};
    }
    if (product.options.accumulate) {
      Values<2> before[T::kColumnTiles];
#pragma unroll
      for (int column = 0; column < T::kColumnTiles; ++column) {
        before[column] = Load(ValuesAt<2>(to + column * 8));
      }
#pragma unroll
      for (int column = 0; column < T::kColumnTiles; ++column) {
        sums[column].of[0] = before[column].of[0] + sums[column].of[0];
        sums[column].of[1] = before[column].of[1] + sums[column].of[1];
      }
    }
#pragma unroll
    for (int column = 0; column < T::kColumnTiles; ++column) {
      Store(ValuesAt<2>(to + column * 8), sums[column]);
    }
  });
}

// All others, in a loop that is short because the sums are in shared memory:
// activations and convolutions of each of a thread's registers would be more
// code than the rest.
template <class T>
__device__ void FinishByPairs(const ProductArguments& product,
                              int64_t first_token, int64_t first_output,
                              const T& tile, float* shared) {
  constexpr int kRowPairs = T::kOutputs / 2;
  constexpr int kPairs = T::kTokens * kRowPairs;
  // Eight rows of a warp meet all banks alike.
  constexpr int kPaddedPairs = kRowPairs + 4;
  auto* const pairs = reinterpret_cast<Values<2>*>(shared);
  const int first_pair = SumsPlace<T>().output / 2;
  // All warps are through with what was there.
  BlockBarrier();
  EachToken<T>([&](int row, int token, int half) {
#pragma unroll
    for (int column = 0; column < T::kColumnTiles; ++column) {
      const float(&of)[4] = tile.sums[row][column];
      pairs[token * kPaddedPairs + first_pair + column * 4] = {
          of[half * 2], of[half * 2 + 1]};
    }
  });
  BlockBarrier();
  const auto ending = [&](int pair) {
    return Ending<2>(
        product,
        pair < kPairs ? first_token + pair / kRowPairs : product.tokens,
        first_output + pair % kRowPairs * 2);
  };
  const auto sums = [&](int pair) {
    return pair < kPairs
               ? pairs[pair / kRowPairs * kPaddedPairs + pair % kRowPairs]
               : Values<2>{};
  };
  // Two at a time wait for memory together.
#pragma unroll 1
  for (int pair = static_cast<int>(threadIdx.x); pair < kPairs;
       pair += 2 * T::kThreads) {
    Ending<2> first = ending(pair), second = ending(pair + T::kThreads);
    first.Fetch();
    second.Fetch();
    first.Finish(sums(pair));
    second.Finish(sums(pair + T::kThreads));
  }
}

template <class T>
__device__ void FinishTile(const ProductArguments& product, int64_t first_token,
                           int64_t first_output, T& tile, float* shared) {
  if constexpr (TermsOf(T::kOrder) == 2) {
#pragma unroll
    for (int row = 0; row < T::kRowTiles; ++row) {
#pragma unroll
      for (int column = 0; column < T::kColumnTiles; ++column) {
        AddSecondTerms(tile.sums[row][column]);
      }
    }
  }
  if (EndsSimply<T>(product, first_output)) {
    FinishSimply(product, first_token, first_output, tile);
  } else {
    FinishByPairs(product, first_token, first_output, tile, shared);
  }
}

// The end of the first segment that ends behind `unit`.
__device__ inline int EndOfSegment(int unit, int units) {
  int64_t segment = 1;
  while (FirstUnit(segment, units) <= unit) ++segment;
  return static_cast<int>(FirstUnit(segment, units));
}

// Sums of units, segments and all of them in a large tile leave no registers
// for a second block.
template <class T, class Step>
constexpr int kBlocks =
    T::kOrder == ProductOrder::kSplit8&& Step::kHasScales ? 1 : 2;

template <class T, class Step>
__global__ void __launch_bounds__(T::kThreads, kBlocks<T, Step>)
    TileKernel(ProductArguments all) {
  const ProductArguments product = ThisPart(all);
  unsigned char* const weights = DynamicShared<unsigned char>();
  constexpr int kStageBytes = StageBytes<Step>(T::kOutputs);
  unsigned char* const tokens = weights + T::kStages * kStageBytes;
  const int64_t first_token = int64_t{blockIdx.x} * T::kTokens;
  const int64_t first_output = int64_t{blockIdx.y} * T::kOutputs;
  const int units = static_cast<int>(Units(product.weight));
  WeightCopies<T, Step> copies(product.weight, first_output);
#pragma unroll
  for (int stage = 0; stage < T::kStages - 1; ++stage) {
    copies.CopyNext(weights + stage * kStageBytes);
    AsyncCommit();
  }
  GridWait();
  GridTrigger();
  FetchedTokens<T> fetched(product, first_token,
                           tokens + 2 * T::kTokenStageBytes);
  if constexpr (!T::kIsLarge) {
#pragma unroll
    for (int unit = 0; unit < T::kStages - 1; ++unit) {
      fetched.FetchNext(unit);
      AsyncCommit();
    }
    AsyncWait<T::kStages - 2>();
    fetched.Take(0);
    fetched.template Store<Step>(tokens);
  } else {
#pragma unroll
    for (int part = 0; part < T::kFetches; ++part) {
      fetched.FetchNext(0, part);
      fetched.template Store<Step>(tokens, part);
    }
    AsyncWait<T::kStages - 2>();
  }
  T tile = {}, total = {};
  int segment_end = EndOfSegment(0, units);
  int stage = 0;
#pragma unroll 1
  for (int unit = 0; unit < units; ++unit) {
    BlockBarrier();
    // Into the place of the unit before, which all warps are through with.
    const int free_stage = stage == 0 ? T::kStages - 1 : stage - 1;
    copies.CopyNext(weights + free_stage * kStageBytes);
    fetched.FetchNext(free_stage);
    AsyncCommit();
    stage = stage == T::kStages - 1 ? 0 : stage + 1;
    unsigned char* const next_tokens =
        tokens + (unit + 1) % 2 * T::kTokenStageBytes;
    if constexpr (!T::kIsLarge) {
      // They are rounded while this unit is added.
      AsyncWait<T::kStages - 2>();
      fetched.Take(stage);
    }
    const int last_stage = stage == 0 ? T::kStages - 1 : stage - 1;
    AddUnit<T, Step>(product.weight, unit, weights + last_stage * kStageBytes,
                     tokens + unit % 2 * T::kTokenStageBytes, tile,
                     [&](int step) {
                       constexpr int kSteps = kUnitSteps / T::kFetches;
                       if (step % kSteps != 0) return;
                       const int part = step / kSteps;
                       fetched.template Store<Step>(next_tokens, part - 1);
                       fetched.FetchNext(free_stage, part);
                     });
    fetched.template Store<Step>(next_tokens, T::kFetches - 1);
    // For the next unit, which others see behind the barrier.
    if constexpr (T::kIsLarge) AsyncWait<T::kStages - 2>();
    if constexpr (T::kOrder == ProductOrder::kSplit8) {
      if (segment_end == unit + 1) {
        AddSegment(tile, total);
        if (unit + 1 < units) segment_end = EndOfSegment(unit + 1, units);
      }
    }
  }
  FinishTile(ThisPart(all), first_token, first_output,
             T::kOrder == ProductOrder::kSplit8 ? total : tile,
             DynamicShared<float>());
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
  constexpr int kRingBytes = T::kStages * StageBytes<Step>(T::kOutputs) +
                             2 * T::kTokenStageBytes +
                             FetchedTokens<T>::kSharedBytes;
  constexpr int kSumsBytes = T::kTokens * (T::kOutputs + 8) * 4;
  shape.shared_bytes = kRingBytes > kSumsBytes ? kRingBytes : kSumsBytes;
  return Launch(shape, stream, TileKernel<T, Step>, product);
}

template <class Step, ProductOrder kOrder>
cudaError_t LaunchInOrder(cudaStream_t stream, TileSize size,
                          const ProductArguments& product) {
  switch (size) {
    case TileSize::k16OfFew:
      return LaunchTile<Tile16OfFew<kOrder>, Step>(stream, product);
    case TileSize::k32OfFew:
      return LaunchTile<Tile32OfFew<kOrder>, Step>(stream, product);
    case TileSize::k16:
      return LaunchTile<Tile16<kOrder>, Step>(stream, product);
    case TileSize::k32:
      return LaunchTile<Tile32<kOrder>, Step>(stream, product);
    case TileSize::kLarge:
      if (HasWholeFours(product)) {
        return LaunchTile<LargeTile<kOrder, Step>, Step>(stream, product);
      }
      [[fallthrough]];
    case TileSize::k64:
      return LaunchTile<Tile64<kOrder>, Step>(stream, product);
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

// What a unit of 64 inputs costs in tiles of a size, in cycles of a
// multiprocessor: computed from bytes, steps and latencies of an H200.
struct TileCosts {
  TileSize size;
  int64_t rows;
  int64_t outputs;
  // Each block's share of what the second-level cache gives, of which a
  // multiprocessor gets 23 bytes a cycle where all ask for some.
  int64_t bytes_cycles;
  // Steps and shared memory of a block on its multiprocessor.
  int64_t own_cycles;
  // From one unit to the next where nothing else is in the way.
  int64_t latency;
};
constexpr TileCosts kTileCosts[] = {
    {TileSize::k16OfFew, 16, 32, 350, 100, 200},
    {TileSize::k32OfFew, 32, 32, 520, 130, 200},
    {TileSize::k16, 16, 64, 520, 110, 350},
    {TileSize::k32, 32, 64, 700, 150, 400},
    {TileSize::k64, 64, 64, 1040, 300, 400},
};
constexpr TileCosts kLargeCosts = {TileSize::kLarge, 128, 128, 2090, 850, 1400};
// Of sums and totals.
constexpr TileCosts kLargeTotalsCosts = {
    TileSize::kLarge, 64, 128, 1390, 450, 800};

// Of all blocks of a product, for each unit of its inputs.
int64_t CyclesOf(const TileCosts& costs, int64_t rows, int64_t outputs,
                 int parts) {
  constexpr int64_t kMultiprocessors = 132;
  constexpr int64_t kTogether = 2;  // blocks of a multiprocessor
  const auto pieces = [](int64_t count, int64_t size) {
    return (count + size - 1) / size;
  };
  const int64_t blocks =
      parts * pieces(rows, costs.rows) * pieces(outputs, costs.outputs);
  const int64_t most = pieces(blocks, kMultiprocessors);
  return std::max({blocks * costs.bytes_cycles / kMultiprocessors,
                   most * costs.own_cycles,
                   pieces(most, kTogether) * costs.latency});
}

}  // namespace

TileSize TileSizeOf(const WeightView& weight, int64_t tokens, int parts) {
  const ProductOrder order = OrderOf(weight.outputs, weight.inputs);
  const int64_t rows = tokens * TermsOf(order);
  const auto cycles = [&](const TileCosts& costs) {
    return CyclesOf(costs, rows, weight.outputs, parts);
  };
  const bool has_totals =
      order == ProductOrder::kSplit8 || weight.format == WeightFormat::kInt8;
  TileCosts best = has_totals ? kLargeTotalsCosts : kLargeCosts;
  for (const TileCosts& costs : kTileCosts) {
    if (cycles(costs) < cycles(best)) best = costs;
  }
  return best.size;
}

cudaError_t TileProduct(cudaStream_t stream, const ProductArguments& product) {
  return TileProduct(stream,
                     TileSizeOf(product.weight, product.tokens, product.parts),
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
