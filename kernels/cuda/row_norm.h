// Norms of rows by a block of any number of warps, in one order whatever that
// number is: as if 256 threads had each group.
//
// Thread t of 256 sums the elements 4 i, ..., 4 i + 3 of all i = t modulo 256
// in ascending order, squares by fused multiply-add; the sums of each 32 are
// added by WarpSum, and these 8 in ascending order. LayerNorm finds the mean
// first, and squares what differs from it.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/product_fusions.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/warp_sum.h"

namespace engram::cuda {

inline constexpr int kNormThreads = 256;
inline constexpr int kNormWarps = kNormThreads / 32;

// What a block norms.
struct NormRange {
  int64_t first_token;
  int tokens;
  int64_t first_group;
  int groups;

  __host__ __device__ int Pairs() const { return tokens * groups; }
};

// Floats of shared memory for the sums of so many pairs of a token and a group.
__host__ __device__ constexpr int64_t NormSumFloats(int64_t pairs) {
  return 2 * pairs * kNormWarps;
}

// Up to four neighbouring elements.
struct FewValues {
  float values[4];
  int count;
};

// The `count` elements of `source` from a multiple of four on.
__device__ inline FewValues LoadFew(const float* source, int64_t count,
                                    bool aligned) {
  FewValues few = {};
  few.count = count < 4 ? static_cast<int>(count) : 4;
  const float4 four = LoadFour(source, count, aligned);
  few.values[0] = four.x;
  few.values[1] = four.y;
  few.values[2] = four.z;
  few.values[3] = four.w;
  return few;
}

// Calls `visit(column, v)` for the elements of a token's group that thread
// `thread` of `threads` has, which it keeps to however many there are.
template <class Visit>
__device__ void ForEachFew(const RowNorm& norm, int64_t token, int64_t group,
                           int thread, int threads, const Visit& visit) {
  for (int64_t i = int64_t{4} * thread; i < norm.width;
       i += int64_t{4} * threads) {
    const int64_t column = group * norm.width + i;
    FewValues few =
        LoadFew(At(norm.x, token, column), norm.width - i, norm.aligned);
    if (norm.z.data != nullptr) {
      const FewValues gate =
          LoadFew(At(norm.z, token, column), norm.width - i, norm.aligned);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        few.values[j] = few.values[j] * Silu(gate.values[j]);
      }
    }
    visit(column, few);
  }
}

__device__ inline float SumOfWarps(const float* sums) {
  float sum = sums[0];
#pragma unroll
  for (int warp = 1; warp < kNormWarps; ++warp) sum = sum + sums[warp];
  return sum;
}

// What becomes of v: ((v - mean) scale) weight, and + bias.
struct Scaling {
  float mean;
  float scale;
};

// The sums of all pairs of a range, and what follows from them.
class NormSums {
 public:
  // `shared` has NormSumFloats.
  __device__ NormSums(const RowNorm& norm, const NormRange& range,
                      float* shared)
      : norm_(norm),
        range_(range),
        means_(shared),
        squares_(shared + range.Pairs() * kNormWarps) {}

  // By all threads of the block, which has full warps. The block's threads see
  // the sums when it returns.
  __device__ void Find() const {
    if (norm_.weight == nullptr) return;
    if (norm_.kind == NormKind::kLayer) {
      Sum(means_, [](int) {
        return [](float value, float sum) { return sum + value; };
      });
    }
    Sum(squares_, [&](int pair) {
      return [mean = Mean(pair)](float value, float sum) {
        const float centred = value - mean;
        return fmaf(centred, centred, sum);
      };
    });
  }

  __device__ Scaling Of(int pair) const {
    if (norm_.weight == nullptr) return {0.0f, 1.0f};
    const float variance = SumOfWarps(squares_ + pair * kNormWarps) /
                           static_cast<float>(norm_.width);
    return {Mean(pair), 1.0f / sqrtf(variance + norm_.epsilon)};
  }

 private:
  __device__ float Mean(int pair) const {
    return norm_.kind == NormKind::kRms
               ? 0.0f
               : SumOfWarps(means_ + pair * kNormWarps) /
                     static_cast<float>(norm_.width);
  }

  // Warps take the eighths of pairs in turn.
  template <class AddOf>
  __device__ void Sum(float* sums, const AddOf& add_of) const {
    const int lane = threadIdx.x % 32;
    for (int i = threadIdx.x / 32; i < range_.Pairs() * kNormWarps;
         i += blockDim.x / 32) {
      const int pair = i / kNormWarps;
      const auto add = add_of(pair);
      float sum = 0.0f;
      ForEachFew(norm_, range_.first_token + pair / range_.groups,
                 range_.first_group + pair % range_.groups,
                 i % kNormWarps * 32 + lane, kNormThreads,
                 [&](int64_t, const FewValues& few) {
#pragma unroll
                   for (int j = 0; j < 4; ++j) {
                     if (j < few.count) sum = add(few.values[j], sum);
                   }
                 });
      sum = WarpSum(sum);
      if (lane == 0) sums[i] = sum;
    }
    BlockBarrier();
  }

  const RowNorm& norm_;
  const NormRange range_;
  float* const means_;
  float* const squares_;
};

// Calls `visit(token of the range, column, values)` for this thread's share of
// what the norm of the range is. By all threads of the block; `shared` as
// above.
template <class Visit>
__device__ void NormRows(const RowNorm& norm, const NormRange& range,
                         float* shared, const Visit& visit) {
  const NormSums sums(norm, range, shared);
  sums.Find();
  for (int pair = 0; pair < range.Pairs(); ++pair) {
    const Scaling scaling = sums.Of(pair);
    const int token = pair / range.groups;
    ForEachFew(norm, range.first_token + token,
               range.first_group + pair % range.groups, threadIdx.x, blockDim.x,
               [&](int64_t column, FewValues few) {
                 if (norm.weight != nullptr) {
                   const FewValues weight =
                       LoadFew(norm.weight + column, few.count, norm.aligned);
#pragma unroll
                   for (int j = 0; j < 4; ++j) {
                     few.values[j] = (few.values[j] - scaling.mean) *
                                     scaling.scale * weight.values[j];
                   }
                 }
                 if (norm.bias != nullptr) {
                   const FewValues bias =
                       LoadFew(norm.bias + column, few.count, norm.aligned);
#pragma unroll
                   for (int j = 0; j < 4; ++j) few.values[j] += bias.values[j];
                 }
                 visit(token, column, few);
               });
  }
}

}  // namespace engram::cuda
