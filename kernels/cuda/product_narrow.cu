// Products of up to 8 tokens with weights of 16 or 8 bits, which are read once
// and are all there is to read: outputs inputs 2 bytes, or 1 and the scales.
//
// A warp has 8 outputs and streams their inputs, unit after unit of 64, through
// a ring in shared memory of its own, which is filled ahead before the kernels
// in front are done. A warp runs through all inputs; kSplit8: the 8 warps of a
// block run through the 8 segments of the same outputs. The tensor cores' 16
// rows are the tokens, and 8 of zeros or the tokens' second terms.
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/product_parts.h"

namespace engram::cuda {
namespace {

constexpr int kTokens = 8;
constexpr int kWarpOutputs = 8;
template <class Step>
constexpr int kStageBytes = StageBytes<Step>(kWarpOutputs);
// Of shared memory, which a block of these devices may have.
constexpr int64_t kMaxSharedBytes = 220 * 1024;

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
    return {first, 0, first < weight.outputs ? units : 0};
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

// All tokens' inputs in the format of the weight; behind them, if wanted, all
// second terms.
template <class Step, ProductOrder kOrder>
__device__ void NarrowTokensTo(const ProductArguments& product,
                               unsigned char* tokens) {
  for (int64_t token = 0; token < product.tokens; ++token) {
    unsigned char* const row = tokens + token * TokenBytes(product.weight);
    for (int64_t k = threadIdx.x * 4; k < product.weight.stride;
         k += blockDim.x * 4) {
      const float4 four = LoadFour(product, token, k);
      *reinterpret_cast<uint2*>(row + k * 2) = NarrowFour<Step>(four);
      if constexpr (TermsOf(kOrder) == 2) {
        *reinterpret_cast<uint2*>(
            row + product.tokens * TokenBytes(product.weight) + k * 2) =
            NarrowRests<Step>(four);
      }
    }
  }
}

template <class Step, ProductOrder kOrder>
__device__ void AddUnit(const ProductArguments& product, int64_t unit,
                        const unsigned char* stage, const unsigned char* tokens,
                        float (&sums)[4]) {
  const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  const int steps = StepsOf(product.weight, unit);
  const bool has_token = group < product.tokens;
  const unsigned char* const token =
      tokens + group * TokenBytes(product.weight) + unit * kUnitBytes;
  float unit_sums[4] = {};
#pragma unroll
  for (int step = 0; step < kUnitSteps; ++step) {
    if (step >= steps) continue;
    const uint2 w =
        FourWeights<Step>(stage + group * kWeightRowBytes<Step>, step, quad);
    uint2 x = {0, 0}, rest = {0, 0};
    if (has_token) {
      x = FourOf(token, step, quad);
      if constexpr (TermsOf(kOrder) == 2) {
        rest = FourOf(token + product.tokens * TokenBytes(product.weight), step,
                      quad);
      }
    }
    Step::Add(Step::kHasScales ? unit_sums : sums, {x.x, rest.x, x.y, rest.y},
              {w.x, w.y});
  }
  if constexpr (Step::kHasScales) {
    AddScaled(stage + ScalesOffset<Step>(kWarpOutputs), unit_sums, sums);
  }
}

// The sums of the block's segments, in `partials` [segment, token, output].
__device__ void AddSegments(const ProductArguments& product,
                            int64_t first_output, float (&sums)[4],
                            float* partials) {
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
  Finish(product, threadIdx.x / kWarpOutputs,
         first_output + threadIdx.x % kWarpOutputs, total);
}

template <class Step, ProductOrder kOrder, int kStages>
__global__ void __launch_bounds__(256) NarrowKernel(ProductArguments product) {
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
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
  NarrowTokensTo<Step, kOrder>(product, tokens);
  BlockBarrier();
  float sums[4] = {};
  int stage = 0;
  for (int64_t unit = share.first_unit; unit < share.end_unit; ++unit) {
    AsyncWait<kStages - 2>();
    WarpBarrier();
    // Its place is that of the unit before, which all lanes are through with.
    const int free_stage = stage == 0 ? kStages - 1 : stage - 1;
    CopyUnit<Step>(product.weight, share, unit + kStages - 1,
                   ring + free_stage * kStageBytes<Step>);
    AddUnit<Step, kOrder>(product, unit, ring + stage * kStageBytes<Step>,
                          tokens, sums);
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }
  if constexpr (kOrder == ProductOrder::kSplit8) {
    float* const partials = reinterpret_cast<float*>(
        tokens + product.tokens * TokenBytes(product.weight));
    AddSegments(product, share.first_output, sums, partials);
  } else {
    const int group = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
    if constexpr (TermsOf(kOrder) == 2) AddSecondTerms(sums);
    FinishPair(product, group, share.first_output + quad * 2,
               {sums[0], sums[1]});
  }
}

// Of what one kernel is launched with.
struct NarrowShape {
  int warps;
  int stages;
  ProductOrder order;

  int64_t SharedBytes(const WeightView& weight, int64_t tokens) const {
    const int64_t partials =
        order == ProductOrder::kSplit8
            ? kSegments * kTokens * kWarpOutputs * sizeof(float)
            : 0;
    const int stage_bytes = weight.format == WeightFormat::kInt8
                                ? kStageBytes<Int8Step>
                                : kStageBytes<Float16Step>;
    return int64_t{warps} * stages * stage_bytes +
           TermsOf(order) * tokens * TokenBytes(weight) + partials;
  }
};

NarrowShape ShapeOf(const WeightView& weight) {
  // From so many outputs on blocks of 8 warps fill a device.
  constexpr int64_t kManyOutputs = 8448;
  const ProductOrder order = OrderOf(weight.outputs, weight.inputs);
  if (order == ProductOrder::kSplit8) return {kSegments, 8, order};
  return weight.outputs >= kManyOutputs ? NarrowShape{8, 8, order}
                                        : NarrowShape{2, 16, order};
}

template <class Step, ProductOrder kOrder>
cudaError_t LaunchNarrow(cudaStream_t stream, const NarrowShape& narrow,
                         const ProductArguments& product) {
  constexpr bool kSplit = kOrder == ProductOrder::kSplit8;
  const int64_t block_outputs =
      kSplit ? kWarpOutputs : narrow.warps * kWarpOutputs;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(
      (product.weight.outputs + block_outputs - 1) / block_outputs));
  shape.block = dim3(narrow.warps * 32);
  shape.shared_bytes = narrow.SharedBytes(product.weight, product.tokens);
  if constexpr (!kSplit) {
    if (narrow.stages == 16) {
      return Launch(shape, stream, NarrowKernel<Step, kOrder, 16>, product);
    }
  }
  return Launch(shape, stream, NarrowKernel<Step, kOrder, 8>, product);
}

template <class Step>
cudaError_t LaunchFor(cudaStream_t stream, const ProductArguments& product) {
  const NarrowShape narrow = ShapeOf(product.weight);
  switch (narrow.order) {
    case ProductOrder::kTwoTerms:
      return LaunchNarrow<Step, ProductOrder::kTwoTerms>(stream, narrow,
                                                         product);
    case ProductOrder::kPlain:
      return LaunchNarrow<Step, ProductOrder::kPlain>(stream, narrow, product);
    case ProductOrder::kSplit8:
      return LaunchNarrow<Step, ProductOrder::kSplit8>(stream, narrow, product);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

int64_t NarrowTokens(const WeightView& weight) {
  const NarrowShape narrow = ShapeOf(weight);
  return narrow.SharedBytes(weight, kTokens) <= kMaxSharedBytes ? kTokens : 0;
}

cudaError_t NarrowProduct(cudaStream_t stream, const WeightView& weight,
                          int64_t tokens, ConstMatrix x,
                          const MatMulOptions& options, Matrix y) {
  const ProductArguments product = ArgumentsOf(weight, tokens, x, options, y);
  switch (weight.format) {
    case WeightFormat::kFloat32:
      break;
    case WeightFormat::kBFloat16:
      return LaunchFor<BFloat16Step>(stream, product);
    case WeightFormat::kFloat16:
      return LaunchFor<Float16Step>(stream, product);
    case WeightFormat::kInt8:
      return LaunchFor<Int8Step>(stream, product);
  }
  return cudaErrorInvalidValue;
}

}  // namespace engram::cuda
