// What the kernels of products share: their arguments, what happens to a sum,
// values of 16 bits and their tensor-core steps.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/product_convolution.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/weight_view.h"
#include "kernels/operations.h"

namespace engram::cuda {

// The product of part blockIdx.z alone.
__device__ inline ProductArguments ThisPart(const ProductArguments& product) {
  ProductArguments part = product;
#pragma unroll
  for (int i = 0; i + 1 < ProductArguments::kPartsMax; ++i) {
    if (static_cast<int>(blockIdx.z) != i + 1) continue;
    part.weight = product.others[i].weight;
    part.options.bias = product.others[i].bias;
    part.y = product.others[i].y;
  }
  return part;
}

// x[token, k .. k + 3]; zeros behind the last token or input. REQUIRES: k is a
// multiple of 4.
__device__ inline float4 LoadFour(const ProductArguments& product,
                                  int64_t token, int64_t k) {
  if (token >= product.tokens) return {0.0f, 0.0f, 0.0f, 0.0f};
  return LoadFour(At(product.x, token, k), product.weight.inputs - k,
                  product.x_aligned);
}

// What becomes of the sum of one token and output; nothing of those behind the
// last.
__device__ inline void Finish(const ProductArguments& product, int64_t token,
                              int64_t output, float sum) {
  if (token >= product.tokens || output >= product.weight.outputs) return;
  const MatMulOptions& options = product.options;
  if (options.bias != nullptr) sum = sum + LoadConstant(options.bias + output);
  float* const y = At(product.y, token, output);
  const int64_t channel = output - product.convolution.first;
  if (channel >= 0 && channel < product.convolution.channels) {
    return ConvolveOne(product.convolution, token, channel, sum, y);
  }
  Store(y,
        options.accumulate ? Load(y) + sum : Activate(options.activation, sum));
}

// The same of two outputs beside each other, the first of an even number. Lanes
// that have them together fill a sector of memory.
__device__ inline void FinishPair(const ProductArguments& product,
                                  int64_t token, int64_t output, float2 sums) {
  const MatMulOptions& options = product.options;
  const ProductConvolution& convolution = product.convolution;
  const bool is_convolved = output + 1 >= convolution.first &&
                            output < convolution.first + convolution.channels;
  if (!product.y_aligned || output + 1 >= product.weight.outputs ||
      is_convolved) {
    Finish(product, token, output, sums.x);
    Finish(product, token, output + 1, sums.y);
    return;
  }
  if (token >= product.tokens) return;
  if (options.bias != nullptr) {
    sums.x = sums.x + LoadConstant(options.bias + output);
    sums.y = sums.y + LoadConstant(options.bias + output + 1);
  }
  float2* const y = reinterpret_cast<float2*>(At(product.y, token, output));
  if (options.accumulate) {
    const float2 before = Load(y);
    Store(y, {before.x + sums.x, before.y + sums.y});
  } else {
    Store(y, {Activate(options.activation, sums.x),
              Activate(options.activation, sums.y)});
  }
}

// Values of 16 bits. Fragments hold the inputs 4 q, ..., 4 q + 3 of a step of
// 16 in lane q of each four, of x and weight alike: a step adds its products in
// no order of ours, and so eight bytes are loaded at once.
struct BFloat16Step {
  static constexpr int kWeightBytes = 2;  // of a value
  static constexpr bool kHasScales = false;
  __device__ static uint16_t Narrow(float value) { return NarrowBf16(value); }
  __device__ static float Widen(uint16_t bits) { return WidenBf16(bits); }
  __device__ static void Add(float (&sums)[4], const uint32_t (&x)[4],
                             const uint32_t (&weight)[2]) {
    MmaBf16(sums, x, weight);
  }
};
struct Float16Step {
  static constexpr int kWeightBytes = 2;
  static constexpr bool kHasScales = false;
  // Infinity is a fault that shall be seen, not a large number.
  __device__ static uint16_t Narrow(float value) {
    if (fabsf(value) == INFINITY) return value < 0.0f ? 0xfc00u : 0x7c00u;
    return NarrowF16Saturated(value);
  }
  __device__ static float Widen(uint16_t bits) { return WidenF16(bits); }
  __device__ static void Add(float (&sums)[4], const uint32_t (&x)[4],
                             const uint32_t (&weight)[2]) {
    MmaF16(sums, x, weight);
  }
};

// Values of 8 bits with x in float16. A unit of 64 inputs has a sum of its own.
struct Int8Step : Float16Step {
  static constexpr int kWeightBytes = 1;
  static constexpr bool kHasScales = true;
};

// Four values as eight bytes.
template <class Step>
__device__ uint2 NarrowFour(float4 four) {
  const auto pair = [](float low, float high) {
    return static_cast<uint32_t>(Step::Narrow(low)) |
           static_cast<uint32_t>(Step::Narrow(high)) << 16;
  };
  return {pair(four.x, four.y), pair(four.z, four.w)};
}

// What rounding left of `four`, as eight bytes: nothing of what is infinite in
// the format.
template <class Step>
__device__ uint2 NarrowRests(float4 four) {
  const auto rest = [](float value) {
    const float nearest = Step::Widen(Step::Narrow(value));
    return fabsf(nearest) == INFINITY ? 0.0f : value - nearest;
  };
  return NarrowFour<Step>(
      {rest(four.x), rest(four.y), rest(four.z), rest(four.w)});
}

// Terms that x is taken as. The tensor cores' 16 rows are so many tokens, or 8
// with both of their terms: the second has the row 8 below the first.
__host__ __device__ constexpr int TermsOf(ProductOrder order) {
  return order == ProductOrder::kTwoTerms ? 2 : 1;
}

// To the sums of the tokens' first terms those of their second.
__device__ inline void AddSecondTerms(float (&sums)[4]) {
  sums[0] = sums[0] + sums[2];
  sums[1] = sums[1] + sums[3];
}

constexpr int kStepInputs = 16;
constexpr int kUnitSteps = kUnitInputs / kStepInputs;
constexpr int kUnitBytes = kUnitInputs * 2;
// Bytes from one row of a unit to the next in shared memory: with them the
// eight-byte loads of a warp meet all banks alike.
constexpr int kRowBytes = kUnitBytes + 32;

__device__ inline uint2 FourOf(const unsigned char* row, int step, int quad) {
  return *reinterpret_cast<const uint2*>(row + step * kStepInputs * 2 +
                                         quad * 8);
}

// The same of a unit of weights in shared memory, whose bytes from one row to
// the next do the same for loads of four bytes; FourWeights gives values of 16
// bits of either.
template <class Step>
constexpr int kWeightUnitBytes = kUnitInputs* Step::kWeightBytes;
template <class Step>
constexpr int kWeightRowBytes =
    kWeightUnitBytes<Step> + 16 * Step::kWeightBytes;
template <class Step>
__device__ uint2 FourWeights(const unsigned char* row, int step, int quad) {
  if constexpr (Step::kWeightBytes == 2) {
    return FourOf(row, step, quad);
  } else {
    return WidenInt8(*reinterpret_cast<const uint32_t*>(
        row + step * kStepInputs + quad * 4));
  }
}

// Of `outputs` rows of a unit, with the scales behind them, which begin at
// ScalesOffset.
template <class Step>
__host__ __device__ constexpr int StageBytes(int outputs) {
  return outputs * (kWeightRowBytes<Step> +
                    (Step::kHasScales ? static_cast<int>(sizeof(float)) : 0));
}
template <class Step>
__device__ int ScalesOffset(int outputs) {
  return outputs * kWeightRowBytes<Step>;
}

// totals += scale sums, of outputs 2 q and 2 q + 1 of eight.
__device__ inline void AddScaled(const unsigned char* scales_at,
                                 const float (&sums)[4], float (&totals)[4]) {
  const float* const scales = reinterpret_cast<const float*>(scales_at);
  const float even = scales[threadIdx.x % 4 * 2];
  const float odd = scales[threadIdx.x % 4 * 2 + 1];
  totals[0] = fmaf(even, sums[0], totals[0]);
  totals[1] = fmaf(odd, sums[1], totals[1]);
  totals[2] = fmaf(even, sums[2], totals[2]);
  totals[3] = fmaf(odd, sums[3], totals[3]);
}

// Units of a weight's padded inputs, and steps of one of them.
__device__ inline int64_t Units(const WeightView& weight) {
  return (weight.stride + kUnitInputs - 1) / kUnitInputs;
}
__device__ inline int StepsOf(const WeightView& weight, int64_t unit) {
  const int64_t steps = (weight.stride - unit * kUnitInputs) / kStepInputs;
  return steps < kUnitSteps ? static_cast<int>(steps) : kUnitSteps;
}
// The first unit of a segment; of kSegments, behind the last one.
__device__ inline int64_t FirstUnit(int64_t segment, int64_t units) {
  return segment * units / kSegments;
}

// Begins to copy 16 bytes of a unit of one output, if the padded weight has
// them.
template <class Step>
__device__ void CopyPart(const WeightView& weight, int64_t output, int64_t unit,
                         int part, unsigned char* row) {
  const int64_t k = unit * kUnitInputs + part * (16 / Step::kWeightBytes);
  if (k >= weight.stride) return;
  AsyncCopy16(row + part * 16,
              static_cast<const unsigned char*>(weight.values) +
                  (output * weight.stride + k) * Step::kWeightBytes);
}
// Likewise a part of the scales of a unit of `first_output`, a multiple of
// eight, and those behind it: four of them each.
__device__ inline void CopyScales(const WeightView& weight,
                                  int64_t first_output, int64_t unit, int part,
                                  unsigned char* scales) {
  const int64_t output = first_output + part * 4;
  if (output >= weight.outputs) return;
  AsyncCopy16(scales + part * 16,
              weight.scales + weight.ScalePlace(output, unit));
}

}  // namespace engram::cuda
