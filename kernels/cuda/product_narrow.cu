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
#include <array>

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
  int first;
  int count;
};

__host__ __device__ int CountOfEight(int64_t tokens, int64_t first) {
  return static_cast<int>(tokens - first < kTokens ? tokens - first : kTokens);
}
__device__ TokenRange ThisTokenRange(int64_t tokens) {
  const int first = static_cast<int>(blockIdx.y) * kTokens;
  return {first, CountOfEight(tokens, first)};
}

// What a warp computes.
struct Share {
  int first_output;
  int first_unit;
  int end_unit;
};

template <ProductOrder kOrder>
__device__ Share ShareOf(const WeightView& weight, int warp, int warps) {
  const int units = static_cast<int>(Units(weight));
  const int block = static_cast<int>(blockIdx.x);
  if constexpr (kOrder == ProductOrder::kSplit8) {
    return {block * kWarpOutputs, static_cast<int>(FirstUnit(warp, units)),
            static_cast<int>(FirstUnit(warp + 1, units))};
  } else {
    const int first = (block * warps + warp) * kWarpOutputs;
    return {first, 0, warp < warps && first < weight.outputs ? units : 0};
  }
}

// A lane's part of the copies that bring a warp's units to its ring, one after
// the other: 16 bytes of the same inputs of every kRows-th output.
template <class Step>
class UnitCopies {
 public:
  __device__ UnitCopies(const WeightView& weight, const Share& share) {
    constexpr int kPartInputs = 16 / Step::kWeightBytes;
    const int lane = threadIdx.x % 32;
    const int row = lane / kParts, part = lane % kParts;
    source_ = static_cast<const unsigned char*>(weight.values) +
              (int64_t{share.first_output + row} * weight.stride +
               share.first_unit * kUnitInputs + part * kPartInputs) *
                  Step::kWeightBytes;
    rows_bytes_ = kRows * weight.stride * Step::kWeightBytes;
    place_ = row * kWeightRowBytes<Step> + part * 16;
    // Of the last unit a padded weight may have some inputs only.
    const int end =
        static_cast<int>(weight.stride - part * kPartInputs + kUnitInputs - 1) /
        static_cast<int>(kUnitInputs);
    left_ = (end < share.end_unit ? end : share.end_unit) - share.first_unit;
    if constexpr (Step::kHasScales) {
      const int64_t output = share.first_output + lane * 4;
      if (lane < kWarpOutputs / 4 && output < weight.outputs) {
        scales_ = weight.scales + weight.ScalePlace(output, share.first_unit);
        scales_left_ = share.end_unit - share.first_unit;
      }
    }
  }

  // Begins to copy the next unit and closes the group, which is empty behind
  // the last one.
  __device__ void Begin(unsigned char* stage) {
    if (left_ > 0) {
#pragma unroll
      for (int i = 0; i < kWarpOutputs / kRows; ++i) {
        AsyncCopy16(stage + place_ + i * kRows * kWeightRowBytes<Step>,
                    source_ + i * rows_bytes_);
      }
    }
    --left_;
    source_ += kWeightUnitBytes<Step>;
    if constexpr (Step::kHasScales) {
      if (scales_left_ > 0) {
        AsyncCopy16(
            stage + ScalesOffset<Step>(kWarpOutputs) + threadIdx.x % 32 * 16,
            scales_);
      }
      --scales_left_;
      scales_ += kWarpOutputs;
    }
    AsyncCommit();
  }

 private:
  static constexpr int kParts = kWeightUnitBytes<Step> / 16;
  static constexpr int kRows = 32 / kParts;

  const unsigned char* source_;
  int64_t rows_bytes_;
  int place_;  // in a stage
  int left_;   // units
  const float* scales_ = nullptr;
  int scales_left_ = 0;
};

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
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < few.count) PutOne(token, k + j, few.values[j]);
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

// Those that are not normed. What a thread has of all tokens it loads in
// batches, each of which waits for memory once.
template <class Step, ProductOrder kOrder>
__device__ void CopyTokens(const ProductArguments& product,
                           const TokenRange& range,
                           const NarrowTokenRows<Step, kOrder>& rows) {
  constexpr int kBatch = 8;
  const int fours = static_cast<int>(product.weight.stride / 4);
  const int all = range.count * fours;
  const int tokens_ahead = kThreads / fours, fours_ahead = kThreads % fours;
  int token = static_cast<int>(threadIdx.x) / fours;
  int four = static_cast<int>(threadIdx.x) % fours;
  for (int first = threadIdx.x; first < all; first += kBatch * kThreads) {
    float4 values[kBatch];
    int tokens[kBatch], columns[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      tokens[i] = token;
      columns[i] = four * 4;
      values[i] = LoadFour(
          product, token < range.count ? range.first + token : product.tokens,
          columns[i]);
      token += tokens_ahead;
      four += fours_ahead;
      if (four >= fours) {
        four -= fours;
        ++token;
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (tokens[i] < range.count)
        rows.PutFour(tokens[i], columns[i], values[i]);
    }
  }
}

// The sums of norms lie behind the tokens.
template <class Step, ProductOrder kOrder>
__device__ void PutTokens(const ProductArguments& product,
                          const TokenRange& range, unsigned char* tokens) {
  const WeightView& weight = product.weight;
  const NarrowTokenRows<Step, kOrder> rows(weight, range.count, tokens);
  if (product.norm.x.data == nullptr) return CopyTokens(product, range, rows);
  const NormRange norm_range = {range.first, range.count, 0,
                                static_cast<int>(product.norm.groups)};
  NormRows(
      product.norm, norm_range,
      reinterpret_cast<float*>(tokens +
                               TokensBytes(kOrder, weight, range.count)),
      [&](int token, int64_t column, const FewValues& few, auto aligned) {
        if constexpr (decltype(aligned)::value) {
          const float(&four)[4] = few.values;
          rows.PutFour(token, column, {four[0], four[1], four[2], four[3]});
        } else {
          rows.PutFew(token, column, few);
        }
      });
  const int64_t padding = weight.stride - weight.inputs;
  for (int64_t i = threadIdx.x; i < range.count * padding; i += kThreads) {
    rows.PutOne(i / padding, weight.inputs + i % padding, 0.0f);
  }
}

// A lane's factors of kSteps steps.
template <class Step, ProductOrder kOrder, int kSteps>
class StepFactors {
 public:
  // From step `first` of a unit on. `token` is of the lane's token and of the
  // unit; all that a token's row gives is in the sums' row of that token, so
  // that lanes without one may take another's.
  __device__ void Load(int first, const unsigned char* stage,
                       const unsigned char* token, int64_t to_rests) {
    const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      w_[i] = FourWeights<Step>(stage + group * kWeightRowBytes<Step>,
                                first + i, quad);
      x_[i] = FourOf(token, first + i, quad);
      if constexpr (TermsOf(kOrder) == 2) {
        rest_[i] = FourOf(token + to_rests, first + i, quad);
      }
    }
  }

  __device__ void Add(int step, float (&sums)[4]) const {
    if constexpr (TermsOf(kOrder) == 2) {
      Step::Add(sums, {x_[step].x, rest_[step].x, x_[step].y, rest_[step].y},
                {w_[step].x, w_[step].y});
    } else {
      Step::Add(sums, {x_[step].x, 0, x_[step].y, 0}, {w_[step].x, w_[step].y});
    }
  }

 private:
  uint2 w_[kSteps];
  uint2 x_[kSteps];
  uint2 rest_[TermsOf(kOrder) == 2 ? kSteps : 1];
};

// The units of a warp, whose ring has kStages. The tensor cores add a unit
// while the next one's factors are loaded and its own stage is filled again.
template <class Step, ProductOrder kOrder, int kStages>
class UnitSums {
 public:
  // Begins to fill the ring.
  __device__ UnitSums(const WeightView& weight, const Share& share,
                      unsigned char* ring)
      : copies_(weight, share), ring_(ring) {
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      copies_.Begin(ring + stage * kStageBytes<Step>);
    }
  }

  // `tokens` as PutTokens left them.
  __device__ void Add(const WeightView& weight, const Share& share,
                      int token_count, const unsigned char* tokens,
                      float (&sums)[4]) {
    const int group = threadIdx.x % 32 / 4;
    const unsigned char* token =
        tokens + (group < token_count ? group : 0) * TokenBytes(weight) +
        share.first_unit * kUnitBytes;
    const int64_t to_rests = token_count * TokenBytes(weight);
    const int units = share.end_unit - share.first_unit;
    const int last_steps =
        units > 0 ? StepsOf(weight, share.end_unit - 1) : kUnitSteps;
    const int whole = last_steps == kUnitSteps ? units : units - 1;
    if (whole > 0) AddWhole(whole, token, to_rests, sums);
    if (whole < units) {
      AddPartial(last_steps, ring_ + whole % kStages * kStageBytes<Step>,
                 token + whole * kUnitBytes, to_rests, sums);
    }
  }

 private:
  static constexpr int kRingBytes = kStages * kStageBytes<Step>;
  using Factors = StepFactors<Step, kOrder, kUnitSteps>;
  // The scales of the lane's two outputs.
  struct Scales {
    float even = 0.0f;
    float odd = 0.0f;
  };

  __device__ static void LoadScales(const unsigned char* stage,
                                    Scales* scales) {
    if constexpr (Step::kHasScales) {
      const auto* const of_unit = reinterpret_cast<const float*>(
          stage + ScalesOffset<Step>(kWarpOutputs));
      scales->even = of_unit[threadIdx.x % 4 * 2];
      scales->odd = of_unit[threadIdx.x % 4 * 2 + 1];
    }
  }
  __device__ static void AddScaled(const Scales& scales,
                                   const float (&unit_sums)[4],
                                   float (&sums)[4]) {
    if constexpr (Step::kHasScales) {
      sums[0] = fmaf(scales.even, unit_sums[0], sums[0]);
      sums[1] = fmaf(scales.odd, unit_sums[1], sums[1]);
      sums[2] = fmaf(scales.even, unit_sums[2], sums[2]);
      sums[3] = fmaf(scales.odd, unit_sums[3], sums[3]);
    }
  }

  __device__ void AddWhole(int units, const unsigned char* token,
                           int64_t to_rests, float (&sums)[4]) {
    Factors factors;
    Scales scales;
    AsyncWait<kStages - 1>();
    WarpBarrier();
    factors.Load(0, ring_, token, to_rests);
    LoadScales(ring_, &scales);
    int stage = 0;  // of the unit that is added, in bytes
#pragma unroll 2
    for (int unit = 1; unit < units; ++unit) {
      const int next_stage = stage + kStageBytes<Step> == kRingBytes
                                 ? 0
                                 : stage + kStageBytes<Step>;
      token += kUnitBytes;
      Factors next;
      Scales next_scales;
      float unit_sums[4] = {};
      float(&added)[4] = Step::kHasScales ? unit_sums : sums;
      factors.Add(0, added);
      AsyncWait<kStages - 2>();
      // Behind it all lanes see the next unit and have taken this one.
      WarpBarrier();
      factors.Add(1, added);
      next.Load(0, ring_ + next_stage, token, to_rests);
      LoadScales(ring_ + next_stage, &next_scales);
      factors.Add(2, added);
      copies_.Begin(ring_ + stage);
      factors.Add(3, added);
      AddScaled(scales, unit_sums, sums);
      factors = next;
      scales = next_scales;
      stage = next_stage;
    }
    float unit_sums[4] = {};
    float(&added)[4] = Step::kHasScales ? unit_sums : sums;
#pragma unroll
    for (int step = 0; step < kUnitSteps; ++step) factors.Add(step, added);
    AddScaled(scales, unit_sums, sums);
  }

  // The last unit of all, of less than kUnitSteps.
  __device__ static void AddPartial(int steps, const unsigned char* stage,
                                    const unsigned char* token,
                                    int64_t to_rests, float (&sums)[4]) {
    AsyncWait<0>();
    WarpBarrier();
    float unit_sums[4] = {};
    float(&added)[4] = Step::kHasScales ? unit_sums : sums;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      StepFactors<Step, kOrder, 1> factors;
      factors.Load(step, stage, token, to_rests);
      factors.Add(0, added);
    }
    Scales scales;
    LoadScales(stage, &scales);
    AddScaled(scales, unit_sums, sums);
  }

  UnitCopies<Step> copies_;
  unsigned char* const ring_;
};

// Brings what the ends of a warp's outputs take beside sums and states closer:
// weights, which from memory take as long as many units.
__device__ void PrefetchEnds(const ProductArguments& product,
                             const Share& share) {
  constexpr int kBiasLane = 30, kConvolutionBiasLane = 31;
  if (share.first_output >= product.weight.outputs) return;
  const int lane = threadIdx.x % 32;
  if (lane == kBiasLane && product.options.bias != nullptr) {
    Prefetch(product.options.bias + share.first_output);
  }
  const ProductConvolution& convolution = product.convolution;
  const int64_t channel = share.first_output - convolution.first;
  if (channel < 0 || channel >= convolution.channels) return;
  if (lane < convolution.taps && lane < kBiasLane) {
    Prefetch(convolution.weight + lane * convolution.channels + channel);
  }
  if (lane == kConvolutionBiasLane && convolution.bias != nullptr) {
    Prefetch(convolution.bias + channel);
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

// That a multiprocessor has room for, as far as registers decide. Small models
// have products of 3 blocks for each, which should not wait for each other.
template <class Step, ProductOrder kOrder>
constexpr int kBlocksAtOnce =
    kOrder == ProductOrder::kSplit8 && !Step::kHasScales ? 3 : 2;

// The first `warps` warps have outputs.
template <class Step, ProductOrder kOrder, int kStages>
__global__ void __launch_bounds__(kThreads, (kBlocksAtOnce<Step, kOrder>))
    NarrowKernel(ProductArguments all, int warps) {
  const ProductArguments product = ThisPart(all);
  const int warp = threadIdx.x / 32;
  unsigned char* const ring =
      DynamicShared<unsigned char>() + warp * kStages * kStageBytes<Step>;
  unsigned char* const tokens =
      DynamicShared<unsigned char>() + warps * kStages * kStageBytes<Step>;
  const Share share = ShareOf<kOrder>(product.weight, warp, warps);
  UnitSums<Step, kOrder, kStages> units(product.weight, share, ring);
  if (kOrder != ProductOrder::kSplit8 ? warp < warps : warp == 0) {
    PrefetchEnds(product, share);
  }
  if (product.norm.x.data != nullptr) PrefetchNorm(product.norm);
  GridWait();
  GridTrigger();
  const TokenRange range = ThisTokenRange(product.tokens);
  PutTokens<Step, kOrder>(product, range, tokens);
  auto ending = ThisEnding<kOrder>(product, range, share, warp < warps);
  BlockBarrier();
  ending.Fetch();
  float sums[4] = {};
  units.Add(product.weight, share, range.count, tokens, sums);
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

int64_t Pieces(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

// Of an order, ascending: what kernels there are.
template <ProductOrder kOrder>
constexpr std::array<int, 3> kStagesOf = {6, 8, 16};
template <>
constexpr std::array<int, 3> kStagesOf<ProductOrder::kSplit8> = {2, 4, 8};
// Their few inputs are at most so many units.
template <>
constexpr std::array<int, 3> kStagesOf<ProductOrder::kTwoTerms> = {4, 4, 4};

std::array<int, 3> StagesOf(ProductOrder order) {
  switch (order) {
    case ProductOrder::kTwoTerms:
      return kStagesOf<ProductOrder::kTwoTerms>;
    case ProductOrder::kSplit8:
      return kStagesOf<ProductOrder::kSplit8>;
    case ProductOrder::kPlain:
      break;
  }
  return kStagesOf<ProductOrder::kPlain>;
}

// Of a block that are to have outputs: as many as leave a block for almost
// every multiprocessor of a device, or few.
int WarpsOf(ProductOrder order, int64_t outputs) {
  constexpr int64_t kBlocks = 120;
  if (order == ProductOrder::kSplit8) return kSegments;
  int warps = 8;
  while (warps > 2 && outputs < kBlocks * warps * kWarpOutputs) warps /= 2;
  return warps;
}

// `groups` of a norm, or none. As many stages as a warp has units, if two
// blocks have a multiprocessor then, or at least one has; few blocks don't
// share one.
NarrowShape ShapeOf(const WeightView& weight, int64_t tokens, int64_t groups) {
  constexpr int64_t kHalfOfShared = 112 * 1024;
  constexpr int64_t kFewBlocks = 132;
  const ProductOrder order = OrderOf(weight.outputs, weight.inputs);
  const bool splits = order == ProductOrder::kSplit8;
  const int64_t units = Pieces(weight.stride, kUnitInputs);
  const int64_t warp_units = splits ? Pieces(units, kSegments) : units;
  const std::array<int, 3> stages = StagesOf(order);
  NarrowShape shape = {WarpsOf(order, weight.outputs), stages[0], order};
  const int64_t blocks =
      Pieces(weight.outputs, shape.BlockOutputs()) * Pieces(tokens, kTokens);
  const int64_t first_room =
      splits && blocks <= kFewBlocks ? kMaxSharedBytes : kHalfOfShared;
  for (const int64_t room : {first_room, kMaxSharedBytes}) {
    int most = 0;
    for (const int more : stages) {
      shape.stages = more;
      if (most < warp_units &&
          shape.SharedBytes(weight, tokens, groups) <= room) {
        most = more;
      }
    }
    shape.stages = most > 0 ? most : stages[0];
    if (most > 0) break;
  }
  return shape;
}

template <class Step, ProductOrder kOrder>
cudaError_t LaunchNarrow(cudaStream_t stream, const NarrowShape& narrow,
                         int64_t shared_bytes,
                         const ProductArguments& product) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(
                        Pieces(product.weight.outputs, narrow.BlockOutputs())),
                    static_cast<unsigned>(Pieces(product.tokens, kTokens)),
                    static_cast<unsigned>(product.parts));
  shape.block = dim3(kThreads);
  shape.shared_bytes = shared_bytes;
  constexpr std::array<int, 3> kStages = kStagesOf<kOrder>;
  if (narrow.stages == kStages[2]) {
    return Launch(shape, stream, NarrowKernel<Step, kOrder, kStages[2]>,
                  product, narrow.warps);
  }
  return narrow.stages == kStages[1]
             ? Launch(shape, stream, NarrowKernel<Step, kOrder, kStages[1]>,
                      product, narrow.warps)
             : Launch(shape, stream, NarrowKernel<Step, kOrder, kStages[0]>,
                      product, narrow.warps);
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
  const int64_t blocks = parts * Pieces(weight.outputs, kWarpOutputs);
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
