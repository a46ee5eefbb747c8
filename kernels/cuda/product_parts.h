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
    // Its shape is the first one's, which is no copy in registers.
    part.weight.values = product.others[i].weight.values;
    part.weight.scales = product.others[i].weight.scales;
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

// What becomes of the sums of one token and of kOutputs outputs beside each
// other, the first a multiple of kOutputs; nothing of those behind the last.
// Lanes that have pairs together fill sectors of memory.
//
// A kernel can make it and call Fetch before it has the sums: then they don't
// wait for what the end takes from memory.
template <int kOutputs>
class Ending {
 public:
  __device__ Ending(const ProductArguments& product, int64_t token,
                    int64_t output)
      : product_(product),
        token_(static_cast<int>(token)),
        output_(static_cast<int>(output)),
        exists_(token < product.tokens && output < product.weight.outputs),
        channel_(static_cast<int>(output - product.convolution.first)),
        are_together_(AreTogether(product, output)),
        is_convolved_(exists_ && are_together_ && channel_ >= 0 &&
                      channel_ < product.convolution.channels) {
    if (is_convolved_) window_.Find(product.convolution, token);
  }

  __device__ void Fetch() {
    if (!exists_ || !are_together_) return;
    if (is_convolved_) {
      window_.Fetch(product_.convolution, channel_);
    } else if (product_.options.accumulate) {
      before_ = Load(ValuesAt<kOutputs>(Y()));
    }
  }

  // REQUIRES: Fetch was called.
  __device__ void Finish(Values<kOutputs> sums) {
    if (!exists_) return;
    if constexpr (kOutputs > 1) {
      if (!are_together_) return FinishEach(sums);
    }
    const MatMulOptions& options = product_.options;
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      float& sum = sums.of[i];
      if (options.bias != nullptr) {
        sum = sum + LoadConstant(options.bias + output_ + i);
      }
      if (is_convolved_) continue;
      sum = options.accumulate ? before_.of[i] + sum
                               : Activate(options.activation, sum);
    }
    if (is_convolved_) {
      window_.Convolve(product_.convolution, channel_, sums, Y());
    } else {
      Store(ValuesAt<kOutputs>(Y()), sums);
    }
  }

 private:
  __device__ static bool AreTogether(const ProductArguments& product,
                                     int64_t output) {
    return kOutputs == 1 ||
           (product.y_aligned && output + 1 < product.weight.outputs &&
            (product.convolution.channels == 0 ||
             product.convolution.by_pairs));
  }
  __device__ float* Y() const { return At(product_.y, token_, output_); }

  __device__ void FinishEach(const Values<kOutputs>& sums) const {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      Ending<1> ending(product_, token_, output_ + i);
      ending.Fetch();
      ending.Finish({sums.of[i]});
    }
  }

  const ProductArguments& product_;
  // There are less than 2^31 of each; they are kept for long.
  const int token_;
  const int output_;
  const bool exists_;
  const int channel_;  // of the convolution
  const bool are_together_;
  const bool is_convolved_;
  TokenWindow<kOutputs> window_;
  Values<kOutputs> before_ = {};
};

template <int kOutputs>
__device__ void Finish(const ProductArguments& product, int64_t token,
                       int64_t output, const Values<kOutputs>& sums) {
  Ending<kOutputs> ending(product, token, output);
  ending.Fetch();
  ending.Finish(sums);
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
