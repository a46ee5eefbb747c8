// A block has a row by 16 channels, each on 4 lanes (scan_lanes.h) or, of long
// rows, on twice as many, and goes through the row's tokens one by one, so that
// any cut of a row gives the same bits. Up to 64 states a channel stay in
// registers meanwhile; more lie in slot_out.
//
// A row's channels are few warps for a device, and each of them waits most of
// the time. So two lanes share a quarter: each advances half of its states, and
// the second adds its own to the sum that the first hands on, in the order in
// which one lane would.
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

// How a block's threads share channels and states: each has kStates of them in
// registers, and kHelpers lanes have a quarter.
template <int kStatesOf, int kHelpersOf>
struct Lanes {
  static constexpr int kStates = kStatesOf;
  static constexpr int kHelpers = kHelpersOf;
  static constexpr int kThreads = kScanThreads * kHelpers;
  static constexpr int kQuarterStates = kStates * kHelpers;
  static constexpr int kLines = kScanQuarters * kQuarterStates;
  static constexpr int kWarpChannels = kScanWarpChannels / kHelpers;
  // From a helper to the next.
  static constexpr int kHelperLanes = kWarpChannels;

  int block_channel;
  int helper;
  int quarter;
  QuarterStates part;  // this lane's
  float h[kStates];
  float a[kStates];

  __device__ Lanes() {
    const int thread = static_cast<int>(threadIdx.x);
    block_channel = thread / 32 * kWarpChannels + thread % kWarpChannels;
    helper = thread % kScanWarpChannels / kWarpChannels;
    quarter = thread % 32 / kScanWarpChannels;
  }
  __device__ int FirstLine() const {
    return quarter * kQuarterStates + helper * kStates;
  }
  __device__ void LoadA(const SelectiveScanArguments& arguments,
                        int64_t channel) {
    part = QuarterStatesOf(arguments.d_state, quarter,
                           channel < arguments.d_inner);
    part.first += helper * kStates;
    part.count -= helper * kStates;
#pragma unroll
    for (int i = 0; i < kStates; ++i) {
      const int64_t place = (part.first + i) * arguments.d_inner + channel;
      a[i] = i < part.count ? LoadConstant(arguments.a + place) : 0.0f;
    }
  }
  // c h, added up over the quarter's states in ascending order; of the last
  // helper.
  __device__ float Sum(const float* c, const float (&states)[kStates]) const {
    float sum = Add(c, states, 0.0f);
#pragma unroll
    for (int i = 1; i < kHelpers; ++i) {
      const float with_own = Add(c, states, ShuffleUp(sum, kHelperLanes));
      if (helper == i) sum = with_own;
    }
    return sum;
  }

 private:
  __device__ static float Add(const float* c, const float (&states)[kStates],
                              float sum) {
#pragma unroll
    for (int i = 0; i < kStates; ++i) sum = fmaf(c[i], states[i], sum);
    return sum;
  }
};

// The tensors of a tile of tokens, in shared memory.
template <int kTileTokens, class Lanes>
struct SharedTile {
  static constexpr int kLines = Lanes::kLines;

  float x[kTileTokens * kScanBlockChannels];
  float delta[kTileTokens * kScanBlockChannels];
  float gate[kTileTokens * kScanBlockChannels];
  // State i of quarter q in column q kQuarterStates + i; zero where there is
  // none.
  float b[kTileTokens * kLines];
  float c[kTileTokens * kLines];
};

// The same on their way there.
template <int kTileTokens, class Lanes>
class FetchedTile {
 public:
  using Shared = SharedTile<kTileTokens, Lanes>;

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
      const int64_t i = column % Lanes::kQuarterStates;
      const int64_t state = column / Lanes::kQuarterStates * share + i;
      return i < share && state < arguments.d_state ? state : -1;
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
  using Channels = TokenTile<kTileTokens, kScanBlockChannels, Lanes::kThreads>;
  using States = TokenTile<kTileTokens, Lanes::kLines, Lanes::kThreads>;

  Channels x_, dt_, z_;
  States b_, c_;
};

// kCount of a tile's tokens, from its t-th on; the tile begins with `token`. Of
// several, one's instructions fill the time that another waits for its sums,
// and each quarter stores what one of them comes to.
template <int kCount, int kTileTokens, class Lanes>
__device__ void ScanTokens(const SelectiveScanArguments& arguments,
                           const SharedTile<kTileTokens, Lanes>& tile, int t,
                           int64_t token, int64_t channel, float d,
                           Lanes& lanes) {
  static_assert(kCount <= kScanQuarters);
  const auto place = [&](int i) {
    return (t + i) * kScanBlockChannels + lanes.block_channel;
  };
  float states[kCount][Lanes::kStates];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const SelectiveInputs inputs = {tile.x[place(i)], tile.delta[place(i)]};
    const float* const b = tile.b + (t + i) * Lanes::kLines + lanes.FirstLine();
#pragma unroll
    for (int n = 0; n < Lanes::kStates; ++n) {
      AdvanceSelective(inputs, lanes.a[n], b[n], lanes.h[n]);
      states[i][n] = lanes.h[n];
    }
  }
  float own = 0.0f;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float* const c = tile.c + (t + i) * Lanes::kLines + lanes.FirstLine();
    const float sum = SumOfQuarters(lanes.Sum(c, states[i]));
    if (lanes.quarter == i) own = sum;
  }
  if (lanes.helper == Lanes::kHelpers - 1 && lanes.quarter < kCount &&
      channel < arguments.d_inner) {
    Store(At(arguments.y, token + t + lanes.quarter, channel),
          SelectiveOutput(tile.x[place(lanes.quarter)], d, own,
                          tile.gate[place(lanes.quarter)]));
  }
}

// The tokens of a tile, as many as there are.
template <int kTileTokens, class Lanes>
__device__ void ScanTile(const SelectiveScanArguments& arguments,
                         const SharedTile<kTileTokens, Lanes>& tile,
                         int64_t token, int64_t tokens, int64_t channel,
                         float d, Lanes& lanes) {
  // More states have enough to do by themselves.
  constexpr int kAtOnce = Lanes::kStates <= 4 && kTileTokens > 1 ? 4 : 1;
  static_assert(kTileTokens % kAtOnce == 0);
  const int count =
      tokens < kTileTokens ? static_cast<int>(tokens) : kTileTokens;
  int t = 0;
  for (; t + kAtOnce <= count; t += kAtOnce) {
    ScanTokens<kAtOnce>(arguments, tile, t, token, channel, d, lanes);
  }
  for (; t < count; ++t) {
    ScanTokens<1>(arguments, tile, t, token, channel, d, lanes);
  }
}

// Blocks that a multiprocessor shall have room for.
template <int kTileTokens, class Lanes>
constexpr int MinBlocks() {
  if (Lanes::kStates > 4) return 6 / Lanes::kHelpers;
  return (kTileTokens == 1 ? 16 : 10) / Lanes::kHelpers;
}

template <int kTileTokens, class Lanes>
__global__ void __launch_bounds__(Lanes::kThreads,
                                  (MinBlocks<kTileTokens, Lanes>()))
    ScanInRegisters(StepTable step, SelectiveScanArguments arguments) {
  Lanes lanes;
  const int64_t first_channel = int64_t{blockIdx.x} * kScanBlockChannels;
  const int64_t channel = first_channel + lanes.block_channel;
  lanes.LoadA(arguments, channel);
  const float d =
      channel < arguments.d_inner ? LoadConstant(arguments.d + channel) : 0.0f;
  GridWait();
  GridTrigger();
  const StepRow row = RowAt(step, blockIdx.y);
  if (row.tokens == 0 && row.slot_in == row.slot_out) return;
  const int64_t first_state = lanes.part.first * arguments.d_inner + channel;
  const float* const in =
      ShareAt(arguments.ssm_state, row.slot_in) + first_state;
#pragma unroll
  for (int i = 0; i < Lanes::kStates; ++i) {
    lanes.h[i] =
        i < lanes.part.count ? LoadStream(in + i * arguments.d_inner) : 0.0f;
  }
  auto& tile = *DynamicShared<SharedTile<kTileTokens, Lanes>>();
  FetchedTile<kTileTokens, Lanes> next;
  next.Fetch(arguments, row.offset, row.tokens, first_channel);
  for (int64_t t = 0; t < row.tokens; t += kTileTokens) {
    next.Put(arguments, first_channel, tile);
    BlockBarrier();
    next.Fetch(arguments, row.offset + t + kTileTokens,
               row.tokens - t - kTileTokens, first_channel);
    ScanTile(arguments, tile, row.offset + t, row.tokens - t, channel, d,
             lanes);
    BlockBarrier();
  }
  float* const out = ShareAt(arguments.ssm_state, row.slot_out) + first_state;
#pragma unroll
  for (int i = 0; i < Lanes::kStates; ++i) {
    if (i < lanes.part.count) {
      StoreStream(out + i * arguments.d_inner, lanes.h[i]);
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
        const float a = LoadConstant(arguments.a + place + channel);
        AdvanceSelective(inputs, a, Load(At(arguments.b, token, n)), h);
        sum = fmaf(Load(At(arguments.c, token, n)), h, sum);
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

template <int kTileTokens, class Lanes>
cudaError_t LaunchScan(cudaStream_t stream, const StepTable& step,
                       const SelectiveScanArguments& arguments) {
  return Launch({dim3(ScanBlocks(arguments.d_inner),
                      static_cast<unsigned>(step.row_count)),
                 dim3(Lanes::kThreads), sizeof(SharedTile<kTileTokens, Lanes>)},
                stream, ScanInRegisters<kTileTokens, Lanes>, step, arguments);
}

template <int kQuarterStates>
cudaError_t Scan(cudaStream_t stream, const StepTable& step,
                 const SelectiveScanArguments& arguments) {
  if (step.longest_row <= 1) {
    return LaunchScan<1, Lanes<kQuarterStates, 1>>(stream, step, arguments);
  }
  return LaunchScan<kLongTileTokens, Lanes<kQuarterStates / 2, 2>>(stream, step,
                                                                   arguments);
}

}  // namespace

cudaError_t SelectiveScan(cudaStream_t stream, const StepTable& step,
                          const SelectiveScanArguments& arguments) {
  if (step.row_count == 0) return cudaSuccess;
  if (arguments.d_state <= 4 * kScanQuarters) {
    return Scan<4>(stream, step, arguments);
  }
  if (arguments.d_state <= 16 * kScanQuarters) {
    return Scan<16>(stream, step, arguments);
  }
  return Launch({dim3(ScanBlocks(arguments.d_inner),
                      static_cast<unsigned>(step.row_count)),
                 dim3(kScanThreads), 0},
                stream, ScanInMemory, step, arguments);
}

}  // namespace engram::cuda
