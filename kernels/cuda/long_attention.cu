// A block of threads has a head and 32 neighbouring tokens of a row, and goes
// through the segments of keys one after the other, each in four steps:
// - scores of all 256 keys. A thread has 4 tokens by 8 keys in registers, and
//   goes through head_dim; keys come by slices of 16 of their dimensions;
// - weights: a warp has 4 tokens, a lane the keys of its number in each block;
// - sums of values. A thread has 4 tokens by 4 channels, and goes through the
//   keys; values come by blocks of 32 keys;
// - the segment is merged into what the thread has of those before.
// Slices and blocks of values are items of 16 KB at most, of which two are on
// their way into shared memory while the block computes with a third: one
// barrier an item. The order of all sums is told in attention.cu.
//
// Memory per 32 tokens and head: 8 head_dim bytes per token of the history are
// read, from the second-level cache for all tokens but the first 32. Between
// loads of 16 bytes from shared memory a thread has 10 fused multiply-adds of
// scores, and 8 of values.
#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/alignment.h"
#include "kernels/cuda/attention_parts.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/long_attention.h"
#include "kernels/cuda/rotation.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/warp_sum.h"

namespace engram::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTokens = 32;
constexpr int kMostDimensions = 128;
constexpr int kSlice = 16;  // dimensions of an item of keys
constexpr int kItemFloats = kSlice * kSegmentKeys;
static_assert(kItemFloats == kBlockTokens * kMostDimensions);
constexpr int kStages = 3;

// What a thread has of the block's tokens: those of its group, 8 apart. So
// lanes of different groups find theirs in neighbouring rows of scores.
constexpr int kGroups = 8;
constexpr int kOwnTokens = kTokens / kGroups;
constexpr int kOwnKeys = 8;
constexpr int kOwnChannels = 4;
static_assert(kThreads / kGroups * kOwnKeys == kSegmentKeys);
static_assert(kThreads / kGroups * kOwnChannels == kMostDimensions);
constexpr int kScoreStride = kSegmentKeys + 4;

struct Shared {
  float stages[kStages][kItemFloats];
  // [dimension, group, of the group's tokens]
  float queries[kMostDimensions * kTokens];
  // Scores, then weights.
  float scores[kTokens * kScoreStride];
  float maxima[kTokens];  // of the segment
  float sums[kTokens];    // of its weights
};

__device__ float4 FourAt(const float* shared) {
  return *reinterpret_cast<const float4*>(shared);
}

// Where an item is: of a segment the slices of keys, then the blocks of values.
struct Item {
  int segment = 0;
  int index = 0;
};

class Block {
 public:
  __device__ Block(const StepTable& step, const AttentionArguments& arguments,
                   const Queries& queries, Shared& shared)
      : step_(step),
        arguments_(arguments),
        queries_(queries),
        shared_(shared),
        dimensions_(static_cast<int>(arguments.head_dim)),
        slices_((dimensions_ + kSlice - 1) / kSlice),
        segments_(static_cast<int>(queries.Segments())) {}

  __device__ void Attend() {
    PutQueries();
    for (int i = 0; i + 1 < kStages; ++i) Fetch();
    float total[kOwnTokens][kOwnChannels] = {};
    float maximum[kOwnTokens], sum[kOwnTokens] = {};
#pragma unroll
    for (int i = 0; i < kOwnTokens; ++i) maximum[i] = kNoScore;
    for (int segment = 0; segment < segments_; ++segment) {
      Score(segment);
      BlockBarrier();
      Weigh(segment);
      float values[kOwnTokens][kOwnChannels] = {};
      SumValues(segment, values);
      Merge(segment, values, maximum, sum, total);
    }
    StoreTotal(total, sum);
  }

 private:
  __device__ static int Thread() { return static_cast<int>(threadIdx.x); }
  __device__ static int Group() { return Thread() % kGroups; }
  __device__ static int Own(int i) { return Group() + i * kGroups; }
  __device__ static int FirstKey() { return Thread() / kGroups * kOwnKeys; }
  __device__ static int FirstChannel() {
    return Thread() / kGroups * kOwnChannels;
  }

  __device__ void PutQueries() {
    for (int element = Thread(); element < dimensions_ * kTokens;
         element += kThreads) {
      const int d = element / kTokens, place = element % kTokens;
      const int token = place / kOwnTokens + place % kOwnTokens * kGroups;
      float q = 0.0f;
      if (token < queries_.tokens) {
        q = Rotated(arguments_.frequencies, arguments_.rotary_dim,
                    queries_.position + token, d, [&](int64_t dimension) {
                      return Load(At(arguments_.q, queries_.token + token,
                                     queries_.head * dimensions_ + dimension));
                    });
      }
      shared_.queries[element] = q;
    }
  }

  // Begins to fetch the next item, if there is one more.
  __device__ void Fetch() {
    if (next_.segment < segments_) {
      float* const stage = shared_.stages[fetch_stage_];
      const int blocks = queries_.BlocksOf(next_.segment);
      const int first = next_.segment * kSegmentBlocks;
      if (next_.index < slices_) {
        FetchKeys(first, blocks, next_.index * kSlice, stage);
      } else {
        FetchValues(first + next_.index - slices_, stage);
      }
      if (++next_.index == slices_ + blocks) next_ = {next_.segment + 1, 0};
    }
    AsyncCommit();
    fetch_stage_ = fetch_stage_ + 1 == kStages ? 0 : fetch_stage_ + 1;
  }
  // [dimension, key of the segment]
  __device__ void FetchKeys(int first_block, int blocks, int dimension,
                            float* stage) {
    constexpr int kFours = kBlockTokens / 4;
    constexpr int kBlockFours = kSlice * kFours;
    for (int i = Thread(); i < blocks * kBlockFours; i += kThreads) {
      const int block = i / kBlockFours, d = i % kBlockFours / kFours;
      const int key = i % kFours * 4;
      if (dimension + d >= dimensions_) continue;
      AsyncCopy16(stage + d * kSegmentKeys + block * kBlockTokens + key,
                  KeysOf(step_, arguments_, queries_.row, first_block + block,
                         queries_.kv_head) +
                      (dimension + d) * kBlockTokens + key);
    }
  }
  // [key, dimension]
  __device__ void FetchValues(int block, float* stage) {
    const float* const values =
        ValuesOf(step_, arguments_, queries_.row, block, queries_.kv_head);
    for (int i = Thread() * 4; i < kBlockTokens * dimensions_;
         i += kThreads * 4) {
      AsyncCopy16(stage + i, values + i);
    }
  }
  // Waits for the next item, and begins to fetch the one that gets the place of
  // the item before it.
  __device__ const float* NextItem() {
    AsyncWait<kStages - 2>();
    BlockBarrier();
    Fetch();
    const float* const item = shared_.stages[stage_];
    stage_ = stage_ + 1 == kStages ? 0 : stage_ + 1;
    return item;
  }

  // Leaves the scores, those of keys that a token does not see as -infinity.
  __device__ void Score(int segment) {
    // A warp has the keys of a block, which may be one that is not there.
    const int known = queries_.BlocksOf(segment) * kBlockTokens;
    float scores[kOwnTokens][kOwnKeys] = {};
    for (int slice = 0; slice < slices_; ++slice) {
      const float* const keys = NextItem() + FirstKey();
      if (FirstKey() >= known) continue;
      const int first = slice * kSlice;
      const float* const q =
          shared_.queries + first * kTokens + Group() * kOwnTokens;
      const int count =
          dimensions_ - first < kSlice ? dimensions_ - first : kSlice;
#pragma unroll 2
      for (int d = 0; d < count; ++d) {
        const float4 own = FourAt(q + d * kTokens);
        const float4 low = FourAt(keys + d * kSegmentKeys);
        const float4 high = FourAt(keys + d * kSegmentKeys + 4);
        const float of_token[kOwnTokens] = {own.x, own.y, own.z, own.w};
        const float of_key[kOwnKeys] = {low.x,  low.y,  low.z,  low.w,
                                        high.x, high.y, high.z, high.w};
#pragma unroll
        for (int i = 0; i < kOwnTokens; ++i) {
#pragma unroll
          for (int k = 0; k < kOwnKeys; ++k) {
            scores[i][k] = fmaf(of_token[i], of_key[k], scores[i][k]);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kOwnTokens; ++i) {
      const int seen = queries_.Seen(
          Own(i), int64_t{segment} * kSegmentKeys + FirstKey(), kOwnKeys);
      float* const target = shared_.scores + Own(i) * kScoreStride + FirstKey();
#pragma unroll
      for (int k = 0; k < kOwnKeys; ++k) {
        target[k] = k < seen ? scores[i][k] * arguments_.scale : kNoScore;
      }
    }
  }

  // Turns the scores into weights and leaves their sums, and the maxima.
  __device__ void Weigh(int segment) {
    const int lane = Thread() % 32;
    const int blocks = queries_.BlocksOf(segment);
    constexpr int kWarpTokens = kTokens / (kThreads / 32);
#pragma unroll
    for (int i = 0; i < kWarpTokens; ++i) {
      const int token = Thread() / 32 * kWarpTokens + i;
      float* const own = shared_.scores + token * kScoreStride + lane;
      float maximum = kNoScore;
      for (int b = 0; b < blocks; ++b) {
        // A comparison: NaN, which has no order, is passed over here and comes
        // back in the exponentials.
        const float score = own[b * kBlockTokens];
        if (score > maximum) maximum = score;
      }
#pragma unroll
      for (int lanes = 16; lanes > 0; lanes /= 2) {
        const float other = ShuffleXor(maximum, lanes);
        if (other > maximum) maximum = other;
      }
      float sum = 0.0f;
      for (int b = 0; b < blocks; ++b) {
        const float weight = Exp(own[b * kBlockTokens] - maximum);
        own[b * kBlockTokens] = weight;
        sum += weight;
      }
      sum = WarpSum(sum);
      if (lane == 0) {
        shared_.maxima[token] = maximum;
        shared_.sums[token] = sum;
      }
    }
  }

  // The weighted sums of a segment's values. What lies behind the keys that a
  // token sees may be anything, even NaN, and is left alone.
  __device__ void SumValues(int segment,
                            float (&sums)[kOwnTokens][kOwnChannels]) {
    const bool has_channels = FirstChannel() < dimensions_;
    for (int b = 0; b < queries_.BlocksOf(segment); ++b) {
      const float* const values = NextItem() + FirstChannel();
      if (!has_channels) continue;
      const int64_t first_key = (segment * kSegmentBlocks + b) * kBlockTokens;
      const float* const weights =
          shared_.scores + Group() * kScoreStride + b * kBlockTokens;
      if (queries_.Seen(0, first_key, kBlockTokens) == kBlockTokens) {
        AddBlock(values, weights, sums);
      } else {
        AddSeen(values, weights, first_key, sums);
      }
    }
  }
  __device__ void AddBlock(const float* values, const float* weights,
                           float (&sums)[kOwnTokens][kOwnChannels]) {
#pragma unroll 2
    for (int j = 0; j < kBlockTokens; j += 4) {
      float of_token[kOwnTokens][4];
#pragma unroll
      for (int i = 0; i < kOwnTokens; ++i) {
        const float4 four = FourAt(weights + i * kGroups * kScoreStride + j);
        of_token[i][0] = four.x;
        of_token[i][1] = four.y;
        of_token[i][2] = four.z;
        of_token[i][3] = four.w;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float4 value = FourAt(values + (j + k) * dimensions_);
#pragma unroll
        for (int i = 0; i < kOwnTokens; ++i) {
          const float weight = of_token[i][k];
          sums[i][0] = fmaf(weight, value.x, sums[i][0]);
          sums[i][1] = fmaf(weight, value.y, sums[i][1]);
          sums[i][2] = fmaf(weight, value.z, sums[i][2]);
          sums[i][3] = fmaf(weight, value.w, sums[i][3]);
        }
      }
    }
  }
  // Each token those keys that it sees.
  __device__ void AddSeen(const float* values, const float* weights,
                          int64_t first_key,
                          float (&sums)[kOwnTokens][kOwnChannels]) {
    int seen[kOwnTokens];
#pragma unroll
    for (int i = 0; i < kOwnTokens; ++i) {
      seen[i] = queries_.Seen(Own(i), first_key, kBlockTokens);
    }
    const int most =
        queries_.Seen(queries_.tokens - 1, first_key, kBlockTokens);
    for (int j = 0; j < most; ++j) {
      const float4 value = FourAt(values + j * dimensions_);
#pragma unroll
      for (int i = 0; i < kOwnTokens; ++i) {
        const float weight = weights[i * kGroups * kScoreStride + j];
        if (j >= seen[i]) continue;
        sums[i][0] = fmaf(weight, value.x, sums[i][0]);
        sums[i][1] = fmaf(weight, value.y, sums[i][1]);
        sums[i][2] = fmaf(weight, value.z, sums[i][2]);
        sums[i][3] = fmaf(weight, value.w, sums[i][3]);
      }
    }
  }

  // Adds the segment to the thread's totals. What the maxima and sums of its
  // tokens are so far each thread knows.
  __device__ void Merge(int segment,
                        const float (&values)[kOwnTokens][kOwnChannels],
                        float (&maximum)[kOwnTokens], float (&sum)[kOwnTokens],
                        float (&total)[kOwnTokens][kOwnChannels]) const {
#pragma unroll
    for (int i = 0; i < kOwnTokens; ++i) {
      if (queries_.Seen(Own(i), int64_t{segment} * kSegmentKeys, 1) == 0)
        continue;
      const float own = shared_.maxima[Own(i)];
      const float larger = own > maximum[i] ? own : maximum[i];
      const float total_factor = Exp(maximum[i] - larger);
      const float own_factor = Exp(own - larger);
      maximum[i] = larger;
      sum[i] = fmaf(sum[i], total_factor, shared_.sums[Own(i)] * own_factor);
#pragma unroll
      for (int k = 0; k < kOwnChannels; ++k) {
        total[i][k] =
            fmaf(total[i][k], total_factor, values[i][k] * own_factor);
      }
    }
  }

  __device__ void StoreTotal(const float (&total)[kOwnTokens][kOwnChannels],
                             const float (&sum)[kOwnTokens]) const {
    if (FirstChannel() >= dimensions_) return;
#pragma unroll
    for (int i = 0; i < kOwnTokens; ++i) {
      if (Own(i) >= queries_.tokens) continue;
      float* const y = At(arguments_.y, queries_.token + Own(i),
                          queries_.head * dimensions_ + FirstChannel());
#pragma unroll
      for (int k = 0; k < kOwnChannels; ++k) Store(y + k, total[i][k] / sum[i]);
    }
  }

  const StepTable& step_;
  const AttentionArguments& arguments_;
  const Queries queries_;
  Shared& shared_;
  const int dimensions_, slices_, segments_;
  Item next_;
  int fetch_stage_ = 0, stage_ = 0;
};

int64_t Windows(const StepTable& step) {
  return (step.token_count + kTokens - 1) / kTokens;
}

// A row is cut into 32 tokens each from its first on. Block i of so many as
// there are windows of 32 tokens of all rows has what begins in window i, of
// which there is one at most, but for rows' first tokens: those have the blocks
// behind. -1: nothing.
struct Begin {
  int64_t row, time;
};
__device__ Begin BeginOf(const StepTable& step, int64_t index,
                         int64_t windows) {
  if (index >= windows) return {index - windows, 0};
  const int64_t token = index * kTokens + static_cast<int>(threadIdx.x) % 32;
  int row = 0, time = 0;
  if (token < step.token_count) {
    row = Load(step.row_of_token + token);
    const StepRow own = RowAt(step, row);
    time = static_cast<int>(token - own.offset);
    if (time >= own.tokens || time % kTokens != 0) time = 0;
  }
  const unsigned found = Ballot(time > 0);
  for (int lane = 0; lane < 32; ++lane) {
    if ((found >> lane & 1) == 0) continue;
    return {ShuffleFrom(row, lane), ShuffleFrom(time, lane)};
  }
  return {-1, 0};
}

__global__ void __launch_bounds__(kThreads, 2)
    AttendLongRows(StepTable step, AttentionArguments arguments,
                   int64_t windows) {
  GridWait();
  GridTrigger();
  // What comes late in a row takes longest, and is begun first.
  const Begin begin = BeginOf(step, gridDim.x - 1 - blockIdx.x, windows);
  if (begin.row < 0) return;
  const StepRow row = RowAt(step, begin.row);
  if (row.tokens == 0) return;
  Block block(step, arguments,
              QueriesFrom(arguments, row, begin.time, kTokens, blockIdx.y),
              *DynamicShared<Shared>());
  block.Attend();
}

}  // namespace

bool IsForLongAttention(const StepTable& step,
                        const AttentionArguments& arguments) {
  constexpr int64_t kFewTokens = 8;
  return step.longest_row > kFewTokens && arguments.head_dim % 4 == 0 &&
         arguments.head_dim <= kMostDimensions &&
         AreFoursAligned(arguments.blocks);
}

cudaError_t LongAttention(cudaStream_t stream, const StepTable& step,
                          const AttentionArguments& arguments) {
  const int64_t windows = Windows(step);
  return Launch({dim3(static_cast<unsigned>(windows + step.row_count),
                      static_cast<unsigned>(arguments.heads)),
                 dim3(kThreads), sizeof(Shared)},
                stream, AttendLongRows, step, arguments, windows);
}

}  // namespace engram::cuda
