// A product of few inputs that a kernel begins with: its blocks of 4 warps
// compute 32 outputs of up to 4 tokens each, with the roundings and in the
// order of product.h, which is kTwoTerms for weights of 16 bits.
//
// All inputs of these outputs and tokens lie in shared memory at once; a weight
// of 16 bits is brought there before the kernels in front are done.
//
//   BlockProductOf<Step>::CopyWeight(...)   before GridWait
//   BlockProductOf<Step>::PutTokens(...)    behind it
//   BlockBarrier()
//   BlockProductOf<Step>::Sum(...)
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/product_parts.h"
#include "kernels/cuda/warp_sum.h"
#include "kernels/cuda/weight_view.h"

namespace engram::cuda {

// Whether a weight has the format, the order and few enough inputs.
inline bool HasBlockProduct(const WeightView& weight) {
  constexpr int64_t kMostInputs = 256;
  return weight.format != WeightFormat::kInt8 && weight.inputs <= kMostInputs &&
         OrderOf(weight.outputs, weight.inputs) == ProductOrder::kTwoTerms;
}

constexpr int kBlockProductOutputs = 32;
constexpr int kBlockProductThreads = 128;
constexpr int kBlockProductWarpOutputs = 8;

// Weights of 16 bits, whose steps are BFloat16Step's or Float16Step's.
template <class Step>
struct BlockProductOf {
  // From one output or token to the next. An odd number of 32 bytes: so the
  // eight-byte loads of half a warp, from four of them, meet all banks.
  __host__ __device__ static int64_t RowBytes(const WeightView& weight) {
    const int64_t bytes = weight.stride * 2;
    return bytes % 64 == 0 ? bytes + 32 : bytes;
  }
  // Of the first terms of `tokens`, their second ones, and the weight.
  static int64_t SharedBytes(const WeightView& weight, int tokens) {
    return (2 * tokens + kBlockProductOutputs) * RowBytes(weight);
  }

  // The outputs of this thread's warp, as far as there are any.
  __device__ static void CopyWeight(const ProductArguments& product,
                                    int64_t first_output, int tokens,
                                    unsigned char* shared) {
    const WeightView& weight = product.weight;
    const int parts = static_cast<int>(weight.stride / 8);
    const int warp = threadIdx.x / 32;
    for (int i = threadIdx.x % 32; i < kBlockProductWarpOutputs * parts;
         i += 32) {
      const int row = warp * kBlockProductWarpOutputs + i / parts;
      if (first_output + row >= weight.outputs) continue;
      CopyPart<Step>(weight, first_output + row, 0, i % parts,
                     shared + (2 * tokens + row) * RowBytes(weight));
    }
    AsyncCommit();
  }

  // `token_of(row)` is the token of a row, or behind the last: then its inputs
  // are zero.
  template <class TokenOf>
  __device__ static void PutTokens(const ProductArguments& product, int tokens,
                                   const TokenOf& token_of,
                                   unsigned char* shared) {
    const WeightView& weight = product.weight;
    const int fours = static_cast<int>(weight.stride / 4);
    for (int i = threadIdx.x; i < tokens * fours; i += kBlockProductThreads) {
      const int row = i / fours, k = i % fours * 4;
      const float4 four = LoadFour(product, token_of(row), k);
      unsigned char* const term = shared + row * RowBytes(weight) + k * 2;
      *reinterpret_cast<uint2*>(term) = NarrowFour<Step>(four);
      *reinterpret_cast<uint2*>(term + tokens * RowBytes(weight)) =
          NarrowRests<Step>(four);
    }
    // Others see the weight, too, behind the barrier.
    AsyncWait<0>();
  }

  // What lane 8 row + i of warp w gets is the sum of that row and of output
  // 8 w + i of the block.
  template <int kRows>
  __device__ static float Sum(const ProductArguments& product, int64_t,
                              const unsigned char* shared) {
    static_assert(kRows <= 4);
    const WeightView& weight = product.weight;
    const int lane = threadIdx.x % 32;
    const int group = lane / 4, quad = lane % 4;
    const unsigned char* const token = shared + group * RowBytes(weight);
    const unsigned char* const output =
        shared +
        (2 * kRows + threadIdx.x / 32 * kBlockProductWarpOutputs + group) *
            RowBytes(weight);
    float sums[4] = {};
    const int steps = static_cast<int>(weight.stride / kStepInputs);
#pragma unroll 4
    for (int step = 0; step < steps; ++step) {
      const uint2 w = FourOf(output, step, quad);
      uint2 x = {0, 0}, rest = {0, 0};
      if (group < kRows) {
        x = FourOf(token, step, quad);
        rest = FourOf(token + kRows * RowBytes(weight), step, quad);
      }
      Step::Add(sums, {x.x, rest.x, x.y, rest.y}, {w.x, w.y});
    }
    AddSecondTerms(sums);
    // Of row `group`, outputs 2 quad and 2 quad + 1.
    const int source = lane / 8 * 4 + lane % 8 / 2;
    const float even = ShuffleFrom(sums[0], source);
    const float odd = ShuffleFrom(sums[1], source);
    return lane % 2 == 0 ? even : odd;
  }
};

// Weights in float32, which are read where they lie.
struct Float32Step {};
template <>
struct BlockProductOf<Float32Step> {
  __host__ __device__ static int64_t RowBytes(const WeightView& weight) {
    return weight.stride * sizeof(float);
  }
  static int64_t SharedBytes(const WeightView& weight, int tokens) {
    return tokens * RowBytes(weight);
  }

  __device__ static void CopyWeight(const ProductArguments&, int64_t, int,
                                    unsigned char*) {}

  template <class TokenOf>
  __device__ static void PutTokens(const ProductArguments& product, int tokens,
                                   const TokenOf& token_of,
                                   unsigned char* shared) {
    const int fours = static_cast<int>(product.weight.stride / 4);
    for (int i = threadIdx.x; i < tokens * fours; i += kBlockProductThreads) {
      reinterpret_cast<float4*>(shared)[i] =
          LoadFour(product, token_of(i / fours), i % fours * 4);
    }
  }

  template <int kRows>
  __device__ static float Sum(const ProductArguments& product,
                              int64_t first_output,
                              const unsigned char* shared) {
    const WeightView& weight = product.weight;
    const int lane = threadIdx.x % 32;
    const int fours = static_cast<int>(weight.stride / 4);
    float own = 0.0f;
#pragma unroll 1
    for (int i = 0; i < kBlockProductWarpOutputs; ++i) {
      const int64_t output =
          first_output + threadIdx.x / 32 * kBlockProductWarpOutputs + i;
      float sums[kRows] = {};
      if (output < weight.outputs) {
        const float* const row =
            static_cast<const float*>(weight.values) + output * weight.stride;
#pragma unroll 1
        for (int four = lane; four < fours; four += 32) {
          const float4 w =
              LoadConstant(reinterpret_cast<const float4*>(row) + four);
#pragma unroll
          for (int t = 0; t < kRows; ++t) {
            const float4 x =
                reinterpret_cast<const float4*>(shared)[t * fours + four];
            sums[t] = fmaf(x.x, w.x, sums[t]);
            sums[t] = fmaf(x.y, w.y, sums[t]);
            sums[t] = fmaf(x.z, w.z, sums[t]);
            sums[t] = fmaf(x.w, w.w, sums[t]);
          }
        }
      }
#pragma unroll
      for (int t = 0; t < kRows; ++t) {
        const float sum = WarpSum(sums[t]);
        if (lane == t * kBlockProductWarpOutputs + i) own = sum;
      }
    }
    return own;
  }
};

}  // namespace engram::cuda
