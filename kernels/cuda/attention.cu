// Two kernels: keys, rotated, and values are added to the blocks of their rows,
// and then every token and head attends.
//
// Segments of 256 keys, which begin at multiples of that position, are computed
// apart: the largest score of the segment, the weights exp(score - largest) and
// their sum, and the weighted sum of the values. Segments are then merged in
// ascending order. All of that belongs to a token, its head and its position,
// so no result depends on how a row was cut, or on what shares a kernel's
// block. In detail: scores over head_dim in ascending order, from zero, by
// fused multiply-adds; a segment's weights by 32 partial sums, key i in sum i
// mod 32 in ascending order, which are added by exchanges 16, 8, 4, 2 and 1
// apart; values over the keys in ascending order by fused multiply-adds.
//
// Rows of many tokens attend in long_attention.cu. Here a block of threads has
// a head and a few neighbouring tokens of a row, or one token where no row has
// more; its warps have a segment each. In the scores a lane has a key of 32, in
// the sums of values a channel of 32, as the blocks of keys and values lie.
//
// Memory per token and head: 8 head_dim bytes of keys and values are written,
// and 8 head_dim bytes per token of the history are read, once per block of
// threads.
#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_parts.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/long_attention.h"
#include "kernels/cuda/rotation.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/warp_sum.h"

namespace engram::cuda {
namespace {

constexpr int kAppendThreads = 128;

// A block of threads has a token.
__global__ void __launch_bounds__(kAppendThreads)
    AppendKeysAndValues(StepTable step, AttentionArguments arguments) {
  GridWait();
  GridTrigger();
  const int64_t token = blockIdx.x;
  const StepRow row = RowAt(step, Load(step.row_of_token + token));
  const int64_t time = token - row.offset;
  if (time >= row.tokens) return;
  const int64_t position = row.position + time;
  const int64_t index = position / kBlockTokens;
  const int64_t place = position % kBlockTokens;
  const int64_t head_dim = arguments.head_dim;
  for (int64_t i = threadIdx.x; i < arguments.kv_heads * head_dim;
       i += kAppendThreads) {
    const int64_t head = i / head_dim, d = i % head_dim;
    const float key = Rotated(
        arguments.frequencies, arguments.rotary_dim, position, d,
        [&](int64_t dimension) {
          return Load(At(arguments.k, token, head * head_dim + dimension));
        });
    Store(KeysOf(step, arguments, row, index, head) + d * kBlockTokens + place,
          key);
    Store(ValuesOf(step, arguments, row, index, head) + place * head_dim + d,
          Load(At(arguments.v, token, i)));
  }
}

template <int kTokens, int kWarps>
struct Block {
  static constexpr int kThreads = kWarps * 32;
  static_assert(kThreads % kTokens == 0, "a thread merges for one token");

  // Shared memory: [.., kTokens] each.
  struct Shared {
    float maxima[kWarps * kTokens];  // of the warps' segments
    float sums[kWarps * kTokens];    // of their weights
    float weights[kWarps * kSegmentKeys * kTokens];
    // Then floats [head_dim, kTokens] of q, of the values' weighted sums and,
    // per warp, of those of its segment.
  };

  static size_t SharedBytes(int64_t head_dim) {
    return sizeof(Shared) + (2 + kWarps) * head_dim * kTokens * sizeof(float);
  }

  const StepTable& step;
  const AttentionArguments& arguments;
  const Queries queries;
  Shared& shared;
  int lane, warp;

  __device__ float* Vectors(int index) const {
    return reinterpret_cast<float*>(&shared + 1) +
           index * arguments.head_dim * kTokens;
  }
  __device__ float* Rotated() const { return Vectors(0); }
  __device__ float* Total() const { return Vectors(1); }
  __device__ float* SegmentValues(int of_warp) const {
    return Vectors(2 + of_warp);
  }
  __device__ float* Weights() const {
    return shared.weights + warp * kSegmentKeys * kTokens;
  }

  // Leaves the rotated queries, and nothing in the sums.
  __device__ void Begin() const {
    const int64_t head_dim = arguments.head_dim;
    for (int64_t element = threadIdx.x; element < head_dim * kTokens;
         element += kThreads) {
      const int i = static_cast<int>(element % kTokens);
      float q = 0.0f;
      if (i < queries.tokens) {
        q = cuda::Rotated(
            arguments.frequencies, arguments.rotary_dim, queries.position + i,
            element / kTokens, [&](int64_t dimension) {
              return Load(At(arguments.q, queries.token + i,
                             queries.head * head_dim + dimension));
            });
      }
      Rotated()[element] = q;
      Total()[element] = 0.0f;
    }
  }

  // Leaves the scores of a segment in this warp's weights, those of keys that a
  // token does not see as -infinity, and the largest ones in `maximum`.
  __device__ void Score(int64_t segment, float (&maximum)[kTokens]) const {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) maximum[i] = kNoScore;
    for (int b = 0; b < queries.BlocksOf(segment); ++b) {
      const int64_t block = segment * kSegmentBlocks + b;
      const float* const keys =
          KeysOf(step, arguments, queries.row, block, queries.kv_head) + lane;
      float scores[kTokens] = {};
#pragma unroll 4
      for (int64_t d = 0; d < arguments.head_dim; ++d) {
        const float key = Load(keys + d * kBlockTokens);
        const float* const q = Rotated() + d * kTokens;
#pragma unroll
        for (int i = 0; i < kTokens; ++i) {
          scores[i] = fmaf(q[i], key, scores[i]);
        }
      }
      float* const weights = Weights() + (b * kBlockTokens + lane) * kTokens;
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        const bool is_seen =
            lane < queries.Seen(i, block * kBlockTokens, kBlockTokens);
        const float score = is_seen ? scores[i] * arguments.scale : kNoScore;
        weights[i] = score;
        // A comparison: NaN, which has no order, is passed over here and comes
        // back in the exponentials.
        if (score > maximum[i]) maximum[i] = score;
      }
    }
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
#pragma unroll
      for (int lanes = 16; lanes > 0; lanes /= 2) {
        const float other = ShuffleXor(maximum[i], lanes);
        if (other > maximum[i]) maximum[i] = other;
      }
    }
  }

  // Turns the scores into weights and leaves their sums, and the maxima.
  __device__ void Weigh(int64_t segment,
                        const float (&maximum)[kTokens]) const {
    float sums[kTokens] = {};
    for (int b = 0; b < queries.BlocksOf(segment); ++b) {
      float* const weights = Weights() + (b * kBlockTokens + lane) * kTokens;
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        weights[i] = Exp(weights[i] - maximum[i]);
        sums[i] += weights[i];
      }
    }
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const float sum = WarpSum(sums[i]);
      if (lane == 0) {
        shared.maxima[warp * kTokens + i] = maximum[i];
        shared.sums[warp * kTokens + i] = sum;
      }
    }
  }

  // Leaves the weighted sums of a segment's values. What lies behind the keys
  // that a token sees may be anything, even NaN, and is left alone.
  __device__ void SumValues(int64_t segment) const {
    const int64_t head_dim = arguments.head_dim;
    for (int64_t channel = lane; channel < head_dim; channel += 32) {
      float sums[kTokens] = {};
      for (int b = 0; b < queries.BlocksOf(segment); ++b) {
        const int64_t block = segment * kSegmentBlocks + b;
        const float* const values =
            ValuesOf(step, arguments, queries.row, block, queries.kv_head) +
            channel;
        const float* const weights = Weights() + b * kBlockTokens * kTokens;
        const int64_t first_key = block * kBlockTokens;
        const int all_see = queries.Seen(0, first_key, kBlockTokens);
#pragma unroll 4
        for (int j = 0; j < all_see; ++j) {
          const float value = Load(values + j * head_dim);
#pragma unroll
          for (int i = 0; i < kTokens; ++i) {
            sums[i] = fmaf(weights[j * kTokens + i], value, sums[i]);
          }
        }
        const int last_sees =
            queries.Seen(queries.tokens - 1, first_key, kBlockTokens);
        for (int j = all_see; j < last_sees; ++j) {
          const float value = Load(values + j * head_dim);
#pragma unroll
          for (int i = 1; i < kTokens; ++i) {
            const float sum = fmaf(weights[j * kTokens + i], value, sums[i]);
            sums[i] =
                j < queries.Seen(i, first_key, kBlockTokens) ? sum : sums[i];
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        SegmentValues(warp)[channel * kTokens + i] = sums[i];
      }
    }
  }

  // Adds the warps' segments, which begin with `first`, to the total of this
  // thread's token, of which `maximum` and `sum` are known so far.
  __device__ void Merge(int64_t first, float& maximum, float& sum) const {
    const int i = static_cast<int>(threadIdx.x) % kTokens;
    for (int w = 0; w < kWarps; ++w) {
      const int64_t first_key = (first + w) * kSegmentKeys;
      if (i >= queries.tokens || queries.Seen(i, first_key, 1) == 0) return;
      const float segment_maximum = shared.maxima[w * kTokens + i];
      const float larger =
          segment_maximum > maximum ? segment_maximum : maximum;
      const float total_factor = Exp(maximum - larger);
      const float segment_factor = Exp(segment_maximum - larger);
      maximum = larger;
      sum = fmaf(sum, total_factor,
                 shared.sums[w * kTokens + i] * segment_factor);
      for (int64_t element = threadIdx.x;
           element < arguments.head_dim * kTokens; element += kThreads) {
        Total()[element] = fmaf(Total()[element], total_factor,
                                SegmentValues(w)[element] * segment_factor);
      }
    }
  }

  __device__ void Attend() const {
    Begin();
    BlockBarrier();
    float total_maximum = kNoScore, total_sum = 0.0f;
    for (int64_t first = 0; first < queries.Segments(); first += kWarps) {
      const int64_t segment = first + warp;
      if (segment < queries.Segments()) {
        float maximum[kTokens];
        Score(segment, maximum);
        Weigh(segment, maximum);
        WarpBarrier();
        SumValues(segment);
      }
      BlockBarrier();
      Merge(first, total_maximum, total_sum);
      BlockBarrier();
    }
    for (int64_t element = threadIdx.x; element < arguments.head_dim * kTokens;
         element += kThreads) {
      const int64_t i = element % kTokens;
      if (i < queries.tokens) {
        Store(At(arguments.y, queries.token + i,
                 queries.head * arguments.head_dim + element / kTokens),
              Total()[element] / total_sum);
      }
    }
  }
};

// A block of threads for every token and head; those of tokens that are not the
// first of kTokens of their row have nothing to do.
template <int kTokens, int kWarps>
__global__ void __launch_bounds__(kWarps * 32, 4)
    AttendTokens(StepTable step, AttentionArguments arguments) {
  GridWait();
  GridTrigger();
  const int64_t token = blockIdx.x;
  const StepRow row = RowAt(step, Load(step.row_of_token + token));
  const int64_t time = token - row.offset;
  if (time >= row.tokens || time % kTokens != 0) return;
  const Queries queries =
      QueriesFrom(arguments, row, time, kTokens, blockIdx.y);
  using ThisBlock = Block<kTokens, kWarps>;
  const ThisBlock block = {step,
                           arguments,
                           queries,
                           *DynamicShared<typename ThisBlock::Shared>(),
                           static_cast<int>(threadIdx.x) % 32,
                           static_cast<int>(threadIdx.x) / 32};
  block.Attend();
}

template <int kTokens, int kWarps>
cudaError_t Attend(cudaStream_t stream, const StepTable& step,
                   const AttentionArguments& arguments) {
  return Launch({dim3(static_cast<unsigned>(step.token_count),
                      static_cast<unsigned>(arguments.heads)),
                 dim3(kWarps * 32),
                 Block<kTokens, kWarps>::SharedBytes(arguments.head_dim)},
                stream, AttendTokens<kTokens, kWarps>, step, arguments);
}

}  // namespace

cudaError_t Attention(cudaStream_t stream, const StepTable& step,
                      const AttentionArguments& arguments) {
  if (step.token_count == 0) return cudaSuccess;
  const cudaError_t error = Launch(
      {dim3(static_cast<unsigned>(step.token_count)), dim3(kAppendThreads), 0},
      stream, AppendKeysAndValues, step, arguments);
  if (error != cudaSuccess) return error;
  if (IsForLongAttention(step, arguments)) {
    return LongAttention(stream, step, arguments);
  }
  return step.longest_row <= 1 ? Attend<1, 8>(stream, step, arguments)
                               : Attend<8, 4>(stream, step, arguments);
}

}  // namespace engram::cuda
