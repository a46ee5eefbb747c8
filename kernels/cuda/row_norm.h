// Norms of rows by a block of 256 threads, in one order.
//
// Thread t sums the elements 4 i, ..., 4 i + 3 of all i = t modulo 256 in
// ascending order, squares by fused multiply-add; the sums of each 32 threads
// are added by WarpSum, and these 8 in ascending order. LayerNorm finds the
// mean first, and squares what differs from it.
//
// Memory is far for a block that has little to do until it answers: a thread
// loads what it has of several rows, or all that it has of one, before it waits
// for any of it, and keeps that from one pass to the next where it can.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

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

__device__ inline float SumOfWarps(const float* sums) {
  float sum = sums[0];
#pragma unroll
  for (int warp = 1; warp < kNormWarps; ++warp) sum = sum + sums[warp];
  return sum;
}

// Brings what a norm takes beside its rows closer, before it can begin. By a
// block's threads.
__device__ inline void PrefetchNorm(const RowNorm& norm) {
  constexpr int64_t kLine = 128 / sizeof(float);
  for (int64_t i = threadIdx.x * kLine; i < norm.groups * norm.width;
       i += kNormThreads * kLine) {
    if (norm.weight != nullptr) Prefetch(norm.weight + i);
    if (norm.bias != nullptr) Prefetch(norm.bias + i);
  }
}

// The norms of a range, kPairs pairs and kSteps of each thread's fours of them
// at a time. REQUIRES: with more than one pair at a time, range.groups == 1;
// norm.aligned is kAligned.
template <int kPairs, int kSteps, bool kAligned>
class PairNorms {
 public:
  // `shared` has NormSumFloats.
  __device__ PairNorms(const RowNorm& norm, const NormRange& range,
                       float* shared)
      : norm_(norm),
        range_(range),
        pairs_(range.Pairs()),
        width_(static_cast<int>(norm.width)),
        is_kept_(pairs_ <= kPairs && width_ <= kSteps * kFours),
        means_(shared),
        squares_(shared + pairs_ * kNormWarps) {}

  // By all threads of the block, see NormRows.
  template <class Visit>
  __device__ void Norm(const Visit& visit) {
    if (norm_.weight != nullptr) FindScalings();
    for (int first = 0; first < pairs_; first += kPairs) {
      for (int i = threadIdx.x * 4; i < width_; i += kSteps * kFours) {
        Fetch(first, i);
        NormFetched(first, i, visit);
      }
    }
  }

 private:
  static constexpr int kFours = kNormThreads * 4;  // values of all threads

  __device__ static int CountOf(int left) {
    return kAligned || left >= 4 ? 4 : left;
  }
  __device__ static FewValues Load(const float* source, int left) {
    return LoadFew(source, CountOf(left), kAligned);
  }
  __device__ int64_t TokenOf(int pair) const {
    return kPairs > 1 ? pair : pair / range_.groups;
  }
  __device__ int64_t FirstColumn(int pair) const {
    const int group = kPairs > 1 ? 0 : pair % range_.groups;
    return (range_.first_group + group) * norm_.width;
  }
  __device__ FewValues Few(const ConstMatrix& matrix, int pair, int i) const {
    return Load(
        At(matrix, range_.first_token + TokenOf(pair), FirstColumn(pair) + i),
        width_ - i);
  }

  // This thread's values from place `i` of the pairs from `first` on, unless it
  // has them.
  __device__ void Fetch(int first, int i) {
    if (is_kept_ && is_fetched_) return;
    is_fetched_ = true;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int place = i + step * kFours;
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        values_[pair][step] = {};
        if (place < width_ && first + pair < pairs_) {
          values_[pair][step] = Few(norm_.x, first + pair, place);
        }
      }
    }
    if (norm_.z.data != nullptr) Gate(first, i);
  }
  // Four gates at a time: more would take registers that there are not.
  __device__ void Gate(int first, int i) {
#pragma unroll
    for (int begin = 0; begin < kPairs * kSteps; begin += 4) {
      FewValues gates[4] = {};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int at = begin + j;
        if (at >= kPairs * kSteps) continue;
        const int pair = first + at / kSteps;
        const int place = i + at % kSteps * kFours;
        if (place < width_ && pair < pairs_) {
          gates[j] = Few(norm_.z, pair, place);
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int at = begin + j;
        if (at >= kPairs * kSteps) continue;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float& value = values_[at / kSteps][at % kSteps].values[k];
          value = value * Silu(gates[j].values[k]);
        }
      }
    }
  }

  // Then means_ has at the beginning of each pair's sums its Scaling.
  __device__ void FindScalings() {
    const float width = static_cast<float>(norm_.width);
    const bool is_centred = norm_.kind == NormKind::kLayer;
    if (is_centred) {
      Sum<false>(means_);
      ForEachOwnPair([&](float* means, const float*) {
        means[0] = SumOfWarps(means) / width;
      });
    }
    Sum<true>(squares_);
    ForEachOwnPair([&](float* means, const float* squares) {
      const float variance = SumOfWarps(squares) / width;
      if (!is_centred) means[0] = 0.0f;
      means[1] = 1.0f / sqrtf(variance + norm_.epsilon);
    });
  }
  // What follows from a pair's sums is for one thread to find: a division takes
  // all of them as long as many pairs.
  template <class Find>
  __device__ void ForEachOwnPair(const Find& find) const {
    for (int pair = threadIdx.x; pair < pairs_; pair += kNormThreads) {
      find(means_ + pair * kNormWarps, squares_ + pair * kNormWarps);
    }
    BlockBarrier();
  }

  // Of the values, or of the squares of what differs from the means.
  template <bool kSquares>
  __device__ void Sum(float* sums) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int first = 0; first < pairs_; first += kPairs) {
      float own[kPairs] = {}, means[kPairs] = {};
      if (kSquares && norm_.kind == NormKind::kLayer) {
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
          if (first + pair < pairs_) {
            means[pair] = means_[(first + pair) * kNormWarps];
          }
        }
      }
      for (int i = threadIdx.x * 4; i < width_; i += kSteps * kFours) {
        Fetch(first, i);
        AddFetched<kSquares>(i, means, own);
      }
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) own[pair] = WarpSum(own[pair]);
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        if (lane == 0 && first + pair < pairs_) {
          sums[(first + pair) * kNormWarps + warp] = own[pair];
        }
      }
    }
    BlockBarrier();
  }
  template <bool kSquares>
  __device__ void AddFetched(int i, const float (&means)[kPairs],
                             float (&sums)[kPairs]) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int place = i + step * kFours;
      if (place >= width_) continue;
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const FewValues& few = values_[pair][step];
        float& sum = sums[pair];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (j >= CountOf(width_ - place)) continue;
          const float centred = few.values[j] - means[pair];
          sum = kSquares ? fmaf(centred, centred, sum) : sum + few.values[j];
        }
      }
    }
  }

  template <class Visit>
  __device__ void NormFetched(int first, int i, const Visit& visit) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int place = i + step * kFours;
      if (place >= width_) continue;
      const int64_t column = FirstColumn(first) + place;
      FewValues weight = {}, bias = {};
      if (norm_.weight != nullptr) {
        weight = Load(norm_.weight + column, width_ - place);
      }
      if (norm_.bias != nullptr) {
        bias = Load(norm_.bias + column, width_ - place);
      }
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        if (first + pair >= pairs_) continue;
        const float* const scaling = means_ + (first + pair) * kNormWarps;
        FewValues few = values_[pair][step];
        few.count = CountOf(width_ - place);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float& value = few.values[j];
          if (norm_.weight != nullptr) {
            value = (value - scaling[0]) * scaling[1] * weight.values[j];
          }
          if (norm_.bias != nullptr) value += bias.values[j];
        }
        visit(static_cast<int>(TokenOf(first + pair)),
              FirstColumn(first + pair) + place, few,
              std::bool_constant<kAligned>());
      }
    }
  }

  const RowNorm& norm_;
  const NormRange range_;
  const int pairs_;
  const int width_;
  const bool is_kept_;  // from one pass to the next
  bool is_fetched_ = false;
  float* const means_;
  float* const squares_;
  FewValues values_[kPairs][kSteps];
};

// Calls `visit(token of the range, column, values, aligned)` for this thread's
// share of what the norm of the range is; `aligned` is a std::bool_constant:
// norm.aligned, so that there are four values of a multiple of four. By all
// kNormThreads of the block; `shared` has NormSumFloats.
template <class Visit>
__device__ void NormRows(const RowNorm& norm, const NormRange& range,
                         float* shared, const Visit& visit) {
  if (!norm.aligned) {
    PairNorms<1, 1, false>(norm, range, shared).Norm(visit);
  } else if (range.Pairs() == 1 || range.groups > 1) {
    PairNorms<1, 3, true>(norm, range, shared).Norm(visit);
  } else {
    PairNorms<4, 1, true>(norm, range, shared).Norm(visit);
  }
}

}  // namespace engram::cuda
