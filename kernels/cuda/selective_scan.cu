// A block has a row by 16 channels, each on 4 lanes (scan_lanes.h), and goes
// through the row's tokens one by one, so that any cut of a row gives the same
// bits. Up to 64 states a channel stay in registers meanwhile; more lie in
// slot_out.
//
// What a token's channels share among their lanes (delta, silu of the gate) is
// computed once, for a tile of tokens, and handed over in shared memory; the
// next tile is fetched while this one is scanned. A tile of steps without long
// rows is one token: fewer registers, more blocks on a multiprocessor.
//
// Memory per token and channel: reads 12 bytes (x, dt, z) and writes 4 (y); per
// block of channels it reads 8 d_state bytes of b and c, mostly from the
// second-level cache. Per row and channel the state is read and written once, 8
// d_state bytes.
#include <cmath>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/scan_lanes.h"
#include "kernels/cuda/selective_scan.h"
#include "kernels/cuda/selective_step.h"
#include "kernels/cuda/token_tile.h"

namespace engram::cuda {
namespace {

constexpr int kLongTileTokens = 16;

// A lane's states in registers.
template <int kStates>
struct LaneStates {
  QuarterStates part;  // of the channel's
  float h[kStates];
  float a[kStates];
};

template <int kStates>
__device__ LaneStates<kStates> LaneStatesOf(
    const SelectiveScanArguments& arguments, int quarter, int64_t channel) {
  LaneStates<kStates> states;
  states.part =
      QuarterStatesOf(arguments.d_state, quarter, channel < arguments.d_inner);
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    const int64_t place = (states.part.first + i) * arguments.d_inner + channel;
    states.a[i] =
        i < states.part.count ? LoadConstant(arguments.a + place) : 0.0f;
  }
  return states;
}

// The tensors of a tile of tokens, in shared memory.
template <int kTileTokens, int kStates>
struct SharedTile {
  static constexpr int kLines = kScanQuarters * kStates;

  float x[kTileTokens * kScanBlockChannels];
  float delta[kTileTokens * kScanBlockChannels];
  float gate[kTileTokens * kScanBlockChannels];
  // State i of quarter q in column q kStates + i; zero where there is none.
  float b[kTileTokens * kLines];
  float c[kTileTokens * kLines];
};

// The same on their way there.
template <int kTileTokens, int kStates>
class FetchedTile {
 public:
  using Shared = SharedTile<kTileTokens, kStates>;

  // Of the `tokens` tokens from `token` on, as many as there are.
  __device__ void Fetch(const SelectiveScanArguments& arguments, int64_t token,
                        int64_t tokens, int64_t first_channel) {
    const auto channels = [&](int column) {
      const int64_t channel = first_channel + column;
      return channel < arguments.d_inner ? channel : -1;
    };
    x_.Fetch(arguments.x, token, tokens, channels);
    dt_.Fetch(arguments.dt, token, tokens, channels);
    z_.Fetch(arguments.z, token, tokens, channels);
    const int64_t share = StatesOfAQuarter(arguments.d_state);
    const auto states = [&](int column) {
      const int64_t state = column / kStates * share + column % kStates;
      return column % kStates < share && state < arguments.d_state ? state : -1;
    };
    b_.Fetch(arguments.b, token, tokens, states);
    c_.Fetch(arguments.c, token, tokens, states);
  }

  __device__ void Put(const SelectiveScanArguments& arguments,
                      int64_t first_channel, Shared& shared) const {
    x_.Put(shared.x);
    dt_.Each([&](float dt, int t, int column) {
      const int64_t channel = first_channel + column;
      shared.delta[t * kScanBlockChannels + column] =
          channel < arguments.d_inner ? SelectiveDelta(arguments, dt, channel)
                                      : 0.0f;
    });
    z_.Each([&](float z, int t, int column) {
      shared.gate[t * kScanBlockChannels + column] = Silu(z);
    });
    b_.Put(shared.b);
    c_.Put(shared.c);
  }

 private:
  using Channels = TokenTile<kTileTokens, kScanBlockChannels, kScanThreads>;
  using States = TokenTile<kTileTokens, Shared::kLines, kScanThreads>;

  Channels x_, dt_, z_;
  States b_, c_;
};

// kCount of a tile's tokens, from its t-th on; the tile begins with `token`. Of
// several, one's instructions fill the time that another waits for its sums,
// and each quarter stores what one of them comes to.
template <int kCount, int kTileTokens, int kStates>
__device__ void ScanTokens(const SelectiveScanArguments& arguments,
                           const SharedTile<kTileTokens, kStates>& tile, int t,
                           int64_t token, int64_t channel, const ScanLane& lane,
                           float d, LaneStates<kStates>& states) {
  static_assert(kCount <= kScanQuarters);
  const auto place = [&](int i) {
    return (t + i) * kScanBlockChannels + lane.block_channel;
  };
  float own = 0.0f;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const SelectiveInputs inputs = {tile.x[place(i)], tile.delta[place(i)]};
    const int line = (t + i) * tile.kLines + lane.quarter * kStates;
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < kStates; ++n) {
      AdvanceSelective(inputs, states.a[n], tile.b[line + n], tile.c[line + n],
                       states.h[n], sum);
    }
    sum = SumOfQuarters(sum);
    if (lane.quarter == i) own = sum;
  }
  if (lane.quarter < kCount && channel < arguments.d_inner) {
    Store(At(arguments.y, token + t + lane.quarter, channel),
          SelectiveOutput(tile.x[place(lane.quarter)], d, own,
                          tile.gate[place(lane.quarter)]));
  }
}

// The tokens of a tile, as many as there are.
template <int kTileTokens, int kStates>
__device__ void ScanTile(const SelectiveScanArguments& arguments,
                         const SharedTile<kTileTokens, kStates>& tile,
                         int64_t token, int64_t tokens, int64_t channel,
                         const ScanLane& lane, float d,
                         LaneStates<kStates>& states) {
  // More states have enough to do by themselves.
  constexpr int kAtOnce = kStates == 4 && kTileTokens > 1 ? 4 : 1;
  static_assert(kTileTokens % kAtOnce == 0);
  const int count =
      tokens < kTileTokens ? static_cast<int>(tokens) : kTileTokens;
  int t = 0;
  for (; t + kAtOnce <= count; t += kAtOnce) {
    ScanTokens<kAtOnce>(arguments, tile, t, token, channel, lane, d, states);
  }
  for (; t < count; ++t) {
    ScanTokens<1>(arguments, tile, t, token, channel, lane, d, states);
  }
}

// Blocks that a multiprocessor shall have room for.
constexpr int MinBlocks(int tile_tokens, int states) {
  if (states > 4) return 6;
  return tile_tokens == 1 ? 16 : 10;
}

template <int kTileTokens, int kStates>
__global__ void __launch_bounds__(kScanThreads, MinBlocks(kTileTokens, kStates))
    ScanInRegisters(StepTable step, SelectiveScanArguments arguments) {
  const ScanLane lane = ThisScanLane();
  const int64_t first_channel = int64_t{blockIdx.x} * kScanBlockChannels;
  const int64_t channel = first_channel + lane.block_channel;
  LaneStates<kStates> states =
      LaneStatesOf<kStates>(arguments, lane.quarter, channel);
  const float d =
      channel < arguments.d_inner ? LoadConstant(arguments.d + channel) : 0.0f;
  GridWait();
  GridTrigger();
  const StepRow row = RowAt(step, blockIdx.y);
  if (row.tokens == 0 && row.slot_in == row.slot_out) return;
  const int64_t first_state = states.part.first * arguments.d_inner + channel;
  const float* const in =
      ShareAt(arguments.ssm_state, row.slot_in) + first_state;
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    states.h[i] =
        i < states.part.count ? LoadStream(in + i * arguments.d_inner) : 0.0f;
  }
  auto& tile = *DynamicShared<SharedTile<kTileTokens, kStates>>();
  FetchedTile<kTileTokens, kStates> next;
  next.Fetch(arguments, row.offset, row.tokens, first_channel);
  for (int64_t t = 0; t < row.tokens; t += kTileTokens) {
    next.Put(arguments, first_channel, tile);
    BlockBarrier();
    next.Fetch(arguments, row.offset + t + kTileTokens,
               row.tokens - t - kTileTokens, first_channel);
    ScanTile(arguments, tile, row.offset + t, row.tokens - t, channel, lane, d,
             states);
    BlockBarrier();
  }
  float* const out = ShareAt(arguments.ssm_state, row.slot_out) + first_state;
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    if (i < states.part.count) {
      StoreStream(out + i * arguments.d_inner, states.h[i]);
    }
  }
}

// Any number of states. The first token finds them in slot_in, the others in
// slot_out.
__global__ void __launch_bounds__(kScanThreads)
    ScanInMemory(StepTable step, SelectiveScanArguments arguments) {
  GridWait();
  GridTrigger();
  const ScanLane lane = ThisScanLane();
  const int64_t channel =
      int64_t{blockIdx.x} * kScanBlockChannels + lane.block_channel;
  const bool exists = channel < arguments.d_inner;
  const StepRow row = RowAt(step, blockIdx.y);
  const QuarterStates part =
      QuarterStatesOf(arguments.d_state, lane.quarter, exists);
  const int64_t begin = part.first, end = part.first + part.count;
  const float* in = ShareAt(arguments.ssm_state, row.slot_in) + channel;
  float* const out = ShareAt(arguments.ssm_state, row.slot_out) + channel;
  for (int64_t token = row.offset; token < row.offset + row.tokens; ++token) {
    SelectiveInputs inputs = {};
    float sum = 0.0f;
    if (exists) {
      inputs.x = Load(At(arguments.x, token, channel));
      inputs.delta = SelectiveDelta(
          arguments, Load(At(arguments.dt, token, channel)), channel);
      for (int64_t n = begin; n < end; ++n) {
        const int64_t place = n * arguments.d_inner;
        float h = Load(in + place);
        AdvanceSelective(inputs, LoadConstant(arguments.a + place + channel),
                         Load(At(arguments.b, token, n)),
                         Load(At(arguments.c, token, n)), h, sum);
        Store(out + place, h);
      }
    }
    sum = SumOfQuarters(sum);
    if (exists && lane.quarter == 0) {
      Store(At(arguments.y, token, channel),
            SelectiveOutput(inputs.x, LoadConstant(arguments.d + channel), sum,
                            Silu(Load(At(arguments.z, token, channel)))));
    }
    in = out;
  }
  if (row.tokens > 0 || row.slot_in == row.slot_out) return;
  for (int64_t n = begin; n < end; ++n) {
    Store(out + n * arguments.d_inner, Load(in + n * arguments.d_inner));
  }
}

template <int kStates>
cudaError_t Scan(const LaunchShape& shape, cudaStream_t stream,
                 const StepTable& step,
                 const SelectiveScanArguments& arguments) {
  LaunchShape with_tile = shape;
  if (step.longest_row <= 1) {
    with_tile.shared_bytes = sizeof(SharedTile<1, kStates>);
    return Launch(with_tile, stream, ScanInRegisters<1, kStates>, step,
                  arguments);
  }
  with_tile.shared_bytes = sizeof(SharedTile<kLongTileTokens, kStates>);
  return Launch(with_tile, stream, ScanInRegisters<kLongTileTokens, kStates>,
                step, arguments);
}

}  // namespace

cudaError_t SelectiveScan(cudaStream_t stream, const StepTable& step,
                          const SelectiveScanArguments& arguments) {
  if (step.row_count == 0) return cudaSuccess;
  const LaunchShape shape = {dim3(ScanBlocks(arguments.d_inner),
                                  static_cast<unsigned>(step.row_count)),
                             dim3(kScanThreads), 0};
  if (arguments.d_state <= 4 * kScanQuarters) {
    return Scan<4>(shape, stream, step, arguments);
  }
  if (arguments.d_state <= 16 * kScanQuarters) {
    return Scan<16>(shape, stream, step, arguments);
  }
  return Launch(shape, stream, ScanInMemory, step, arguments);
}

}  // namespace engram::cuda
