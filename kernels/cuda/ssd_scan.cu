// A block has a row by 32 channels of a head and goes through the row's tokens
// one by one, so that any cut of a row gives the same bits. A thread has 2
// channels by an eighth of the states, at most 16, in registers meanwhile; more
// states lie in slot_out.
//
// An eighth is ceil(d_state / 8) states, each eighth is summed up in ascending
// order, and a sum is ((e0 + e1) + (e2 + e3)) + ((e4 + e5) + (e6 + e7)), all of
// them on neighbouring lanes: no barrier.
//
// x, b, c and what a head does to its states come by tiles of tokens, through
// shared memory; the next tile is fetched while this one is scanned. A tile of
// steps without long rows is one token.
//
// Memory per token and channel: reads 4 bytes (x) and writes 4 (y); b and c, 8
// d_state bytes a group, come from the second-level cache for all blocks but
// the first. Per row and channel the state is read and written once, 8 d_state
// bytes, in sectors of 32.
#include <cmath>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_chunks.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/ssd_lanes.h"
#include "kernels/cuda/ssd_scan.h"
#include "kernels/cuda/ssd_step.h"
#include "kernels/cuda/token_tile.h"

namespace engram::cuda {
namespace {

constexpr int kThreads = kSsdThreads;
constexpr int kLongTileTokens = 8;
constexpr int kLaneChannels = 2;
constexpr int kLaneStates = kSsdLaneStates;
constexpr int kBlockChannels = kSsdBlockChannels<kLaneChannels>;
constexpr int kLines = kSsdEighths * kLaneStates;

// Two neighbouring floats of which `count` exist. kAligned: both or none, at a
// multiple of 8 bytes.
template <bool kAligned>
__device__ float2 LoadTwo(const float* source, int count) {
  if constexpr (kAligned) {
    return LoadStream(reinterpret_cast<const float2*>(source));
  }
  return {count > 0 ? Load(source) : 0.0f, count > 1 ? Load(source + 1) : 0.0f};
}
template <bool kAligned>
__device__ void StoreTwo(float* target, int count, float2 values) {
  if constexpr (kAligned) {
    StoreStream(reinterpret_cast<float2*>(target), values);
    return;
  }
  if (count > 0) Store(target, values.x);
  if (count > 1) Store(target + 1, values.y);
}

// One token of one state of both channels.
__device__ void Advance(float decay, float2 delta_x, float b, float c,
                        float2& h, float2& sum) {
  AdvanceSsd(decay, delta_x.x, b, c, h.x, sum.x);
  AdvanceSsd(decay, delta_x.y, b, c, h.y, sum.y);
}

// Adds the eighths up; the first of them stores d x + sum.
__device__ void StoreOutput(const SsdScanArguments& arguments,
                            const SsdPart& part, int64_t token, float2 x,
                            float2 sum) {
  sum = {SumOfEighths(sum.x), SumOfEighths(sum.y)};
  if (part.eighth != 0 || part.channels == 0) return;
  const float d = LoadConstant(arguments.d + part.head);
  StoreTwo<false>(
      At(arguments.y, token, part.head * arguments.head_dim + part.channel),
      part.channels, {SsdOutput(x.x, d, sum.x), SsdOutput(x.y, d, sum.y)});
}

// The tensors of a tile of tokens, in shared memory.
template <int kTileTokens>
struct SharedTile {
  float x[kTileTokens * kBlockChannels];
  // State i of eighth e in column e kLaneStates + i; zero where there is none.
  float b[kTileTokens * kLines];
  float c[kTileTokens * kLines];
  HeadStep steps[kTileTokens];
};

// The same on their way there.
template <int kTileTokens>
class FetchedTile {
 public:
  // Of the `tokens` tokens from `token` on, as many as there are.
  __device__ void Fetch(const SsdScanArguments& arguments, const SsdPart& part,
                        int64_t token, int64_t tokens) {
    x_.Fetch(arguments.x, token, tokens, [&](int column) {
      const int64_t channel = part.first_channel + column;
      return channel < arguments.head_dim
                 ? part.head * arguments.head_dim + channel
                 : -1;
    });
    const int64_t first = GroupOf(arguments, part.head) * arguments.d_state;
    const int64_t share = StatesOfAnEighth(arguments);
    const auto states = [&](int column) {
      const int64_t state = column / kLaneStates * share + column % kLaneStates;
      return column % kLaneStates < share && state < arguments.d_state
                 ? first + state
                 : -1;
    };
    b_.Fetch(arguments.b, token, tokens, states);
    c_.Fetch(arguments.c, token, tokens, states);
    dt_.Fetch(arguments.dt, token, tokens, [&](int) { return part.head; });
  }

  __device__ void Put(const SsdScanArguments& arguments, const SsdPart& part,
                      SharedTile<kTileTokens>& shared) const {
    x_.Put(shared.x);
    b_.Put(shared.b);
    c_.Put(shared.c);
    dt_.Each([&](float dt, int t, int) {
      shared.steps[t] = HeadStepOf(arguments, dt, part.head);
    });
  }

 private:
  TokenTile<kTileTokens, kBlockChannels, kThreads> x_;
  TokenTile<kTileTokens, kLines, kThreads> b_, c_;
  TokenTile<kTileTokens, 1, kThreads> dt_;
};

__device__ float2 TwoOf(const float* shared) {
  return *reinterpret_cast<const float2*>(shared);
}
__device__ float4 FourOf(const float* shared) {
  return *reinterpret_cast<const float4*>(shared);
}

// The tokens of a tile.
template <int kTileTokens>
__device__ void ScanTile(const SsdScanArguments& arguments, const SsdPart& part,
                         const SharedTile<kTileTokens>& tile, int64_t token,
                         int64_t tokens, float2 (&h)[kLaneStates]) {
  for (int t = 0; t < kTileTokens && t < tokens; ++t) {
    const HeadStep head = tile.steps[t];
    const float2 x = TwoOf(tile.x + t * kBlockChannels + part.block_channel);
    const float2 delta_x = {x.x * head.delta, x.y * head.delta};
    const int line = t * kLines + part.eighth * kLaneStates;
    float2 sum = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < kLaneStates; i += 4) {
      const float4 b = FourOf(tile.b + line + i);
      const float4 c = FourOf(tile.c + line + i);
      Advance(head.decay, delta_x, b.x, c.x, h[i], sum);
      Advance(head.decay, delta_x, b.y, c.y, h[i + 1], sum);
      Advance(head.decay, delta_x, b.z, c.z, h[i + 2], sum);
      Advance(head.decay, delta_x, b.w, c.w, h[i + 3], sum);
    }
    StoreOutput(arguments, part, token + t, x, sum);
  }
}

template <int kTileTokens, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    ScanInRegisters(StepTable step, SsdScanArguments arguments,
                    RowPart row_part) {
  GridWait();
  GridTrigger();
  const StepRow row = PartOf(RowAt(step, blockIdx.y), row_part);
  if (row.tokens == 0 && row.slot_in == row.slot_out) return;
  const SsdPart part = ThisSsdPart<kLaneChannels>(arguments);
  const int64_t head_dim = arguments.head_dim;
  const float* const in = StatesOf(arguments, part, row.slot_in);
  float2 h[kLaneStates];
#pragma unroll
  for (int i = 0; i < kLaneStates; ++i) {
    h[i] = i < part.states ? LoadTwo<kAligned>(in + i * head_dim, part.channels)
                           : float2{0.0f, 0.0f};
  }
  auto& tile = *DynamicShared<SharedTile<kTileTokens>>();
  FetchedTile<kTileTokens> next;
  next.Fetch(arguments, part, row.offset, row.tokens);
  for (int64_t t = 0; t < row.tokens; t += kTileTokens) {
    next.Put(arguments, part, tile);
    BlockBarrier();
    next.Fetch(arguments, part, row.offset + t + kTileTokens,
               row.tokens - t - kTileTokens);
    ScanTile(arguments, part, tile, row.offset + t, row.tokens - t, h);
    BlockBarrier();
  }
  float* const out = StatesOf(arguments, part, row.slot_out);
#pragma unroll
  for (int i = 0; i < kLaneStates; ++i) {
    if (i < part.states) {
      StoreTwo<kAligned>(out + i * head_dim, part.channels, h[i]);
    }
  }
}

// Any number of states. The first token finds them in slot_in, the others in
// slot_out.
__global__ void __launch_bounds__(kThreads)
    ScanInMemory(StepTable step, SsdScanArguments arguments, RowPart row_part) {
  GridWait();
  GridTrigger();
  const StepRow row = PartOf(RowAt(step, blockIdx.y), row_part);
  const SsdPart part = ThisSsdPart<kLaneChannels>(arguments);
  const int64_t head_dim = arguments.head_dim;
  const float* in = StatesOf(arguments, part, row.slot_in);
  float* const out = StatesOf(arguments, part, row.slot_out);
  const int64_t first_line =
      GroupOf(arguments, part.head) * arguments.d_state + part.first_state;
  for (int64_t token = row.offset; token < row.offset + row.tokens; ++token) {
    const HeadStep head = HeadStepOf(
        arguments, Load(At(arguments.dt, token, part.head)), part.head);
    const float2 x = LoadTwo<false>(
        At(arguments.x, token, part.head * head_dim + part.channel),
        part.channels);
    const float2 delta_x = {x.x * head.delta, x.y * head.delta};
    float2 sum = {0.0f, 0.0f};
    for (int i = 0; i < part.states; ++i) {
      float2 h = LoadTwo<false>(in + i * head_dim, part.channels);
      Advance(head.decay, delta_x, Load(At(arguments.b, token, first_line + i)),
              Load(At(arguments.c, token, first_line + i)), h, sum);
      StoreTwo<false>(out + i * head_dim, part.channels, h);
    }
    StoreOutput(arguments, part, token, x, sum);
    in = out;
  }
  if (row.tokens > 0 || row.slot_in == row.slot_out) return;
  for (int i = 0; i < part.states; ++i) {
    StoreTwo<false>(out + i * head_dim, part.channels,
                    LoadTwo<false>(in + i * head_dim, part.channels));
  }
}

// Whether every thread's states of every slot begin at multiples of 8 bytes.
bool AreStatesAligned(const SsdScanArguments& arguments) {
  return reinterpret_cast<uintptr_t>(arguments.ssm_state.data) % 8 == 0 &&
         arguments.ssm_state.stride % 2 == 0 && arguments.head_dim % 2 == 0;
}

template <int kTileTokens>
cudaError_t Scan(const LaunchShape& shape, cudaStream_t stream,
                 const StepTable& step, const SsdScanArguments& arguments,
                 RowPart row_part) {
  LaunchShape with_tile = shape;
  with_tile.shared_bytes = sizeof(SharedTile<kTileTokens>);
  return AreStatesAligned(arguments)
             ? Launch(with_tile, stream, ScanInRegisters<kTileTokens, true>,
                      step, arguments, row_part)
             : Launch(with_tile, stream, ScanInRegisters<kTileTokens, false>,
                      step, arguments, row_part);
}

}  // namespace

cudaError_t SsdScan(cudaStream_t stream, const StepTable& step,
                    const SsdScanArguments& arguments, RowPart row_part) {
  if (step.row_count == 0) return cudaSuccess;
  const LaunchShape shape = {SsdGrid<kLaneChannels>(arguments, step.row_count),
                             dim3(kThreads), 0};
  if (arguments.d_state > kLines) {
    return Launch(shape, stream, ScanInMemory, step, arguments, row_part);
  }
  return step.longest_row <= 1
             ? Scan<1>(shape, stream, step, arguments, row_part)
             : Scan<kLongTileTokens>(shape, stream, step, arguments, row_part);
}

}  // namespace engram::cuda
