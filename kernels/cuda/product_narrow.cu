// Products of few tokens with weights of 16 or 8 bits. Up to 8 tokens the
// weights are read once and are all there is to read: outputs inputs 2 bytes,
// or 1 and the scales. More tokens go by eights, of which each has blocks of
// its own and reads the weights again, from the second-level cache.
//
// A warp has 8 outputs and streams their inputs, unit after unit of 64, through
// a ring in shared memory of its own, which is filled ahead before the kernels
// in front are done. A warp runs through all inputs; kSplit8: the 8 warps of a
// block run through the 8 segments of the same outputs. The tensor cores' 16
// rows are the tokens, and 8 of zeros or the tokens' second terms.
//
// Every block brings its tokens to its shared memory, in the weight's format;
// if they are to be normed, it does that too. Where less than 8 warps have
// outputs, so that enough blocks share them, the others help with that alone.
#include <algorithm>

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/product_parts.h"
#include "kernels/cuda/row_norm.h"

namespace engram::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTokens = 8;  // of a block
constexpr int kWarpOutputs = 8;
template <class Step>
constexpr int kStageBytes = StageBytes<Step>(kWarpOutputs);
// Of shared memory, which a block of these devices may have.
constexpr int64_t kMaxSharedBytes = 220 * 1024;

// The tokens of blocks with this blockIdx.y.
struct TokenRange {
  int64_t first;
  int count;
};

__host__ __device__ int CountOfEight(int64_t tokens, int64_t first) {
  return static_cast<int>(tokens - first < kTokens ? tokens - first : kTokens);
}
__device__ TokenRange ThisTokenRange(int64_t tokens) {
  const int64_t first = int64_t{blockIdx.y} * kTokens;
  return {first, CountOfEight(tokens, first)};
}

// What a warp computes.
struct Share {
  int64_t first_output;
  int64_t first_unit;
  int64_t end_unit;
};

template <ProductOrder kOrder>
__device__ Share ShareOf(const WeightView& weight, int warp, int warps) {
  const int64_t units = Units(weight);
  if constexpr (kOrder == ProductOrder::kSplit8) {
    return {int64_t{blockIdx.x} * kWarpOutputs, FirstUnit(warp, units),
            FirstUnit(warp + 1, units)};
  } else {
    const int64_t first = (int64_t{blockIdx.x} * warps + warp) * kWarpOutputs;
    return {first, 0, warp < warps && first < weight.outputs ? units : 0};
  }
}

// Begins to copy a unit of the warp's outputs and closes the group, which is
// empty behind the last unit.
template <class Step>
__device__ void CopyUnit(const WeightView& weight, const Share& share,
                         int64_t unit, unsigned char* stage) {
  constexpr int kParts = kWeightUnitBytes<Step> / 16;
  const int lane = threadIdx.x % 32;
  if (unit < share.end_unit) {
#pragma unroll
    for (int i = 0; i < kWarpOutputs * kParts / 32; ++i) {
      const int part = i * 32 + lane;
      CopyPart<Step>(weight, share.first_output + part / kParts, unit,
                     part % kParts,
                     stage + part / kParts * kWeightRowBytes<Step>);
    }
    if constexpr (Step::kHasScales) {
      if (lane < kWarpOutputs / 4) {
        CopyScales(weight, share.first_output, unit, lane,
                   stage + ScalesOffset<Step>(kWarpOutputs));
      }
    }
  }
  AsyncCommit();
}

// Bytes from one token to the next.
__host__ __device__ int64_t TokenBytes(const WeightView& weight) {
  return weight.stride * 2 + 32;
}

// The inputs of a block's tokens in the format of the weight; behind them, if
// wanted, all second terms.
template <class Step, ProductOrder kOrder>
class NarrowTokenRows {
 public:
  __device__ NarrowTokenRows(const WeightView& weight, int tokens,
                             unsigned char* rows)
      : rows_(rows),
        row_bytes_(TokenBytes(weight)),
        to_rests_(tokens * row_bytes_) {}

  // REQUIRES: k is a multiple of four.
  __device__ void PutFour(int64_t token, int64_t k, float4 four) const {
    unsigned char* const place = rows_ + token * row_bytes_ + k * 2;
    *reinterpret_cast<uint2*>(place) = NarrowFour<Step>(four);
    if constexpr (TermsOf(kOrder) == 2) {
      *reinterpret_cast<uint2*>(place + to_rests_) = NarrowRests<Step>(four);
    }
  }
  __device__ void PutFew(int64_t token, int64_t k, const FewValues& few) const {
    const float(&values)[4] = few.values;
    if (few.count == 4 && k % 4 == 0) {
      return PutFour(token, k, {values[0], values[1], values[2], values[3]});
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < few.count) PutOne(token, k + j, values[j]);
    }
  }
  __device__ void PutOne(int64_t token, int64_t k, float value) const {
    const float4 four = {value, 0.0f, 0.0f, 0.0f};
    unsigned char* const place = rows_ + token * row_bytes_ + k * 2;
    *reinterpret_cast<uint16_t*>(place) =
        static_cast<uint16_t>(NarrowFour<Step>(four).x);
    if constexpr (TermsOf(kOrder) == 2) {
      *reinterpret_cast<uint16_t*>(place + to_rests_) =
          static_cast<uint16_t>(NarrowRests<Step>(four).x);
    }
  }

 private:
  unsigned char* const rows_;
  const int64_t row_bytes_;
  const int64_t to_rests_;
};

// Bytes of the inputs of so many of a block's tokens, a multiple of 16.
__host__ __device__ int64_t TokensBytes(ProductOrder order,
                                        const WeightView& weight, int tokens) {
  return TermsOf(order) * tokens * TokenBytes(weight);
}

// The sums of norms lie behind the tokens.
template <class Step, ProductOrder kOrder>
__device__ void PutTokens(const ProductArguments& product,
                          const TokenRange& range, unsigned char* tokens) {
  const WeightView& weight = product.weight;
  const NarrowTokenRows<Step, kOrder> rows(weight, range.count, tokens);
  if (product.norm.x.data == nullptr) {
    for (int token = 0; token < range.count; ++token) {
      for (int64_t k = threadIdx.x * 4; k < weight.stride; k += kThreads * 4) {
        rows.PutFour(token, k, LoadFour(product, range.first + token, k));
      }
    }
    return;
  }
  const NormRange norm_range = {range.first, range.count, 0,
                                static_cast<int>(product.norm.groups)};
  NormRows(product.norm, norm_range,
           reinterpret_cast<float*>(tokens +
                                    TokensBytes(kOrder, weight, range.count)),
           [&](int token, int64_t column, const FewValues& few) {
             rows.PutFew(token, column, few);
           });
  const int64_t padding = weight.stride - weight.inputs;
  for (int64_t i = threadIdx.x; i < range.count * padding; i += kThreads) {
    rows.PutOne(i / padding, weight.inputs + i % padding, 0.0f);
  }
}

// Adds kSteps steps of a unit, from `first` on, whose factors are all loaded
// before: then a step waits for the one before it alone. `token` is this lane's
// part of the unit.
template <class Step, ProductOrder kOrder, int kSteps>
__device__ void AddSteps(int first, const unsigned char* stage,
                         const unsigned char* token, bool has_token,
                         int64_t to_rests, float (&sums)[4]) {
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  uint2 w[kSteps], x[kSteps] = {}, rest[kSteps] = {};
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    w[i] = FourWeights<Step>(stage + group * kWeightRowBytes<Step>, first + i,
                             quad);
  }
  if (has_token) {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      x[i] = FourOf(token, first + i, quad);
      if constexpr (TermsOf(kOrder) == 2) {
        rest[i] = FourOf(token + to_rests, first + i, quad);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    Step::Add(sums, {x[i].x, rest[i].x, x[i].y, rest[i].y}, {w[i].x, w[i].y});
  }
}

template <class Step, ProductOrder kOrder>
__device__ void AddUnit(const WeightView& weight, int token_count, int64_t unit,
                        const unsigned char* stage, const unsigned char* tokens,
                        float (&sums)[4]) {
  const int group = threadIdx.x % 32 / 4;
  const int steps = StepsOf(weight, unit);
  const bool has_token = group < token_count;
  const unsigned char* const token =
      tokens + group * TokenBytes(weight) + unit * kUnitBytes;
  const int64_t to_rests = token_count * TokenBytes(weight);
  float unit_sums[4] = {};
  float(&added)[4] = Step::kHasScales ? unit_sums : sums;
  if (steps == kUnitSteps) {
    AddSteps<Step, kOrder, kUnitSteps>(0, stage, token, has_token, to_rests,
                                       added);
  } else {
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      AddSteps<Step, kOrder, 1>(step, stage, token, has_token, to_rests, added);
    }
  }
  if constexpr (Step::kHasScales) {
    AddScaled(stage + ScalesOffset<Step>(kWarpOutputs), unit_sums, sums);
  }
}

// Of what this thread has when all is added.
template <ProductOrder kOrder>
__device__ auto ThisEnding(const ProductArguments& product,
                           const TokenRange& range, const Share& share,
                           bool has_outputs) {
  if constexpr (kOrder == ProductOrder::kSplit8) {
    const bool has_sum = threadIdx.x < kTokens * kWarpOutputs;
    return Ending<1>(
        product,
        has_sum ? range.first + threadIdx.x / kWarpOutputs : product.tokens,
        share.first_output + threadIdx.x % kWarpOutputs);
  } else {
    return Ending<2>(
        product,
        has_outputs ? range.first + threadIdx.x % 32 / 4 : product.tokens,
        share.first_output + threadIdx.x % 4 * 2);
  }
}

// The sums of the block's segments, in `partials` [segment, token, output].
__device__ void AddSegments(float (&sums)[4], float* partials,
                            Ending<1>& ending) {
  constexpr int kSums = kTokens * kWarpOutputs;
  const int warp = threadIdx.x / 32;
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  float* const own = partials + warp * kSums + group * kWarpOutputs + quad * 2;
  own[0] = sums[0];
  own[1] = sums[1];
  BlockBarrier();
  if (threadIdx.x >= kSums) return;
  float total = 0.0f;
#pragma unroll
  for (int segment = 0; segment < kSegments; ++segment) {
    total = total + partials[segment * kSums + threadIdx.x];
  }
  ending.Finish({total});
}

template <class Step, ProductOrder kOrder, int kStages>
__device__ void AddUnits(const WeightView& weight, const Share& share,
                         int token_count, unsigned char* ring,
                         const unsigned char* tokens, float (&sums)[4]) {
  int stage = 0;
  for (int64_t unit = share.first_unit; unit < share.end_unit; ++unit) {
    AsyncWait<kStages - 2>();
    WarpBarrier();
    // Its place is that of the unit before, which all lanes are through with.
    const int free_stage = stage == 0 ? kStages - 1 : stage - 1;
    CopyUnit<Step>(weight, share, unit + kStages - 1,
                   ring + free_stage * kStageBytes<Step>);
    AddUnit<Step, kOrder>(weight, token_count, unit,
                          ring + stage * kStageBytes<Step>, tokens, sums);
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }
}

// The first `warps` warps have outputs.
template <class Step, ProductOrder kOrder, int kStages>
__global__ void __launch_bounds__(kThreads, 2)
    NarrowKernel(ProductArguments all, int warps) {
  const ProductArguments product = ThisPart(all);
  const int warp = threadIdx.x / 32;
  unsigned char* const ring =
      DynamicShared<unsigned char>() + warp * kStages * kStageBytes<Step>;
  unsigned char* const tokens =
      DynamicShared<unsigned char>() + warps * kStages * kStageBytes<Step>;
  const Share share = ShareOf<kOrder>(product.weight, warp, warps);
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) {
    CopyUnit<Step>(product.weight, share, share.first_unit + stage,
                   ring + stage * kStageBytes<Step>);
  }
  GridWait();
  GridTrigger();
  const TokenRange range = ThisTokenRange(product.tokens);
  auto ending = ThisEnding<kOrder>(product, range, share, warp < warps);
  PutTokens<Step, kOrder>(product, range, tokens);
  BlockBarrier();
  ending.Fetch();
  float sums[4] = {};
  AddUnits<Step, kOrder, kStages>(product.weight, share, range.count, ring,
                                  tokens, sums);
  if constexpr (kOrder == ProductOrder::kSplit8) {
    float* const partials = reinterpret_cast<float*>(
        tokens + TokensBytes(kOrder, product.weight, range.count));
    AddSegments(sums, partials, ending);
  } else {
    if constexpr (TermsOf(kOrder) == 2) AddSecondTerms(sums);
    ending.Finish({sums[0], sums[1]});
  }
}

// Of what one kernel is launched with.
struct NarrowShape {
  int warps;  // that have outputs
  int stages;
  ProductOrder order;

  int64_t BlockOutputs() const {
    return order == ProductOrder::kSplit8 ? kWarpOutputs : warps * kWarpOutputs;
  }
  // The most that a block has of so many tokens.
  int64_t SharedBytes(const WeightView& weight, int64_t all_tokens,
                      int64_t groups) const {
    const int tokens = CountOfEight(all_tokens, 0);
    const int64_t partials =
        order == ProductOrder::kSplit8 ? kSegments * kTokens * kWarpOutputs : 0;
    // A norm's sums are gone when the segments' begin.
    const int64_t floats = std::max(partials, NormSumFloats(tokens * groups));
    const int stage_bytes = weight.format == WeightFormat::kInt8
                                ? kStageBytes<Int8Step>
                                : kStageBytes<Float16Step>;
    return int64_t{warps} * stages * stage_bytes +
           TokensBytes(order, weight, tokens) + floats * sizeof(float);
  }
};

// `groups` of a norm, or none. Stages as many as let two blocks have a
// multiprocessor, if any do.
NarrowShape ShapeOf(const WeightView& weight, int64_t tokens, int64_t groups) {
  constexpr int64_t kHalfOfShared = 112 * 1024;
  // From so many outputs on blocks whose warps all have some fill a device.
  constexpr int64_t kManyOutputs = 8448;
  const ProductOrder order = OrderOf(weight.outputs, weight.inputs);
  const bool all_warps =
      order == ProductOrder::kSplit8 || weight.outputs >= kManyOutputs;
  NarrowShape shape = {all_warps ? 8 : 2, all_warps ? 8 : 16, order};
  while (shape.stages > 4 &&
         shape.SharedBytes(weight, tokens, groups) > kHalfOfShared) {
    shape.stages /= 2;
  }
  return shape;
}

template <class Step, ProductOrder kOrder>
cudaError_t LaunchNarrow(cudaStream_t stream, const NarrowShape& narrow,
                         int64_t shared_bytes,
                         const ProductArguments& product) {
  const auto pieces = [](int64_t count, int64_t size) {
    return static_cast<unsigned>((count + size - 1) / size);
  };
  LaunchShape shape;
  shape.grid = dim3(pieces(product.weight.outputs, narrow.BlockOutputs()),
                    pieces(product.tokens, kTokens),
                    static_cast<unsigned>(product.parts));
  shape.block = dim3(kThreads);
  shape.shared_bytes = shared_bytes;
  if constexpr (kOrder != ProductOrder::kSplit8) {
    if (narrow.stages == 16) {
      return Launch(shape, stream, NarrowKernel<Step, kOrder, 16>, product,
                    narrow.warps);
    }
  }
  return narrow.stages == 8
             ? Launch(shape, stream, NarrowKernel<Step, kOrder, 8>, product,
                      narrow.warps)
             : Launch(shape, stream, NarrowKernel<Step, kOrder, 4>, product,
                      narrow.warps);
}

template <class Step>
cudaError_t LaunchFor(cudaStream_t stream, const ProductArguments& product) {
  const int64_t groups =
      product.norm.x.data == nullptr ? 0 : product.norm.groups;
  const NarrowShape narrow = ShapeOf(product.weight, product.tokens, groups);
  const int64_t bytes =
      narrow.SharedBytes(product.weight, product.tokens, groups);
  switch (narrow.order) {
    case ProductOrder::kTwoTerms:
      return LaunchNarrow<Step, ProductOrder::kTwoTerms>(stream, narrow, bytes,
                                                         product);
    case ProductOrder::kPlain:
      return LaunchNarrow<Step, ProductOrder::kPlain>(stream, narrow, bytes,
                                                      product);
    case ProductOrder::kSplit8:
      return LaunchNarrow<Step, ProductOrder::kSplit8>(stream, narrow, bytes,
                                                       product);
  }
  return cudaErrorInvalidValue;
}

bool Fits(const WeightView& weight, int64_t tokens, int64_t groups) {
  return ShapeOf(weight, tokens, groups).SharedBytes(weight, tokens, groups) <=
         kMaxSharedBytes;
}

}  // namespace

int64_t NarrowTokens(const WeightView& weight, int parts) {
  // Two for each multiprocessor of an H100. Of so few outputs and tokens there
  // are a few tiles, and each goes through all inputs in one chain, where these
  // blocks have a chain for each segment.
  constexpr int64_t kMostBlocks = 264;
  if (!Fits(weight, kTokens, 0)) return 0;
  const NarrowShape shape = ShapeOf(weight, kTokens, 0);
  if (shape.order != ProductOrder::kSplit8) return kTokens;
  const int64_t blocks =
      parts * ((weight.outputs + kWarpOutputs - 1) / kWarpOutputs);
  return std::max<int64_t>(kMostBlocks / blocks, 1) * kTokens;
}

bool CanNorm(const ProductArguments& product, const RowNorm& norm) {
  return product.weight.format != WeightFormat::kFloat32 &&
         product.tokens <= NarrowTokens(product.weight, product.parts) &&
         Fits(product.weight, product.tokens, norm.groups);
}

cudaError_t NarrowProduct(cudaStream_t stream,
                          const ProductArguments& product) {
  switch (product.weight.format) {
    case WeightFormat::kFloat32:
      break;
    case WeightFormat::kBFloat16:
      return LaunchFor<BFloat16Step>(stream, product);
    case WeightFormat::kFloat16:
      return LaunchFor<Float16Step>(stream, product);
    case WeightFormat::kInt8:
      return LaunchFor<Int8Step>(stream, product);
    case WeightFormat::kInt4:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace engram::cuda
