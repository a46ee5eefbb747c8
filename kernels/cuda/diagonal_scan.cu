// A block has a row by 16 channels, each on 4 lanes (scan_lanes.h), and goes
// through the row's tokens one by one, so that any cut of a row gives the same
// bits. Up to 32 pairs a channel stay in registers meanwhile; more lie in
// slot_out. A pair adds its real part's share to the sum before its imaginary
// part's.
//
// p and the gate come by tiles of tokens, through shared memory; the next tile
// is fetched while this one is scanned. A tile of steps without long rows is
// one token.
//
// Memory per token and channel: reads 8 bytes (p, gate) and writes 4 (y). Per
// row and channel the state is read and written once, 16 bytes per pair, and
// decay and read are read, 16 more, for other rows from the second-level cache.
#include <cmath>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/diagonal_scan.h"
#include "kernels/cuda/diagonal_step.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/scan_lanes.h"
#include "kernels/cuda/token_tile.h"

namespace engram::cuda {
namespace {

constexpr int kLongTileTokens = 16;
constexpr int kLanePairs = 8;

// The tensors of a tile of tokens, in shared memory.
template <int kTileTokens>
struct SharedTile {
  float p[kTileTokens * kScanBlockChannels];
  float gate[kTileTokens * kScanBlockChannels];  // if there is one
};

// The same on their way there.
template <int kTileTokens>
class FetchedTile {
 public:
  // Of the `tokens` tokens from `token` on, as many as there are.
  __device__ void Fetch(const DiagonalScanArguments& arguments, int64_t token,
                        int64_t tokens, int64_t first_channel) {
    const auto channels = [&](int column) {
      const int64_t channel = first_channel + column;
      return channel < arguments.channels ? channel : -1;
    };
    p_.Fetch(arguments.p, token, tokens, channels);
    if (arguments.gate.data != nullptr) {
      gate_.Fetch(arguments.gate, token, tokens, channels);
    }
  }
  __device__ void Put(const DiagonalScanArguments& arguments,
                      SharedTile<kTileTokens>& shared) const {
    p_.Put(shared.p);
    if (arguments.gate.data != nullptr) gate_.Put(shared.gate);
  }

 private:
  TokenTile<kTileTokens, kScanBlockChannels, kScanThreads> p_, gate_;
};

// A lane's pairs in registers.
struct Registers {
  Complex decay[kLanePairs];
  Complex read[kLanePairs];
  Complex h[kLanePairs];
};

// kCount of a tile's tokens, from its t-th on; the tile begins with `token`. A
// pair takes all of them before the next pair does, so that their sums, which
// each take what pairs give one after the other, don't wait for each other; nor
// do the exchanges. Each quarter stores what one of them comes to.
template <int kCount, int kTileTokens>
__device__ void ScanTokens(const DiagonalScanArguments& arguments,
                           const SharedTile<kTileTokens>& tile, int t,
                           int64_t token, int64_t channel, const ScanLane& lane,
                           float d, Registers& pairs) {
  static_assert(kCount <= kScanQuarters);
  const auto place = [&](int i) {
    return (t + i) * kScanBlockChannels + lane.block_channel;
  };
  float p[kCount], sums[kCount] = {};
#pragma unroll
  for (int i = 0; i < kCount; ++i) p[i] = tile.p[place(i)];
#pragma unroll
  for (int n = 0; n < kLanePairs; ++n) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      AdvanceDiagonal(p[i], pairs.decay[n], pairs.read[n], pairs.h[n], sums[i]);
    }
  }
  SumQuarters(sums);
  float own = 0.0f, own_p = 0.0f;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (lane.quarter == i) {
      own = sums[i];
      own_p = p[i];
    }
  }
  if (lane.quarter < kCount && channel < arguments.channels) {
    const float y = DiagonalOutput(arguments, own_p, d, own);
    Store(At(arguments.y, token + t + lane.quarter, channel),
          arguments.gate.data == nullptr ? y
                                         : y * tile.gate[place(lane.quarter)]);
  }
}

// The tokens of a tile, as many as there are.
template <int kTileTokens>
__device__ void ScanTile(const DiagonalScanArguments& arguments,
                         const SharedTile<kTileTokens>& tile, int64_t token,
                         int64_t tokens, int64_t channel, const ScanLane& lane,
                         float d, Registers& pairs) {
  constexpr int kAtOnce = kTileTokens > 1 ? 4 : 1;
  static_assert(kTileTokens % kAtOnce == 0);
  const int count =
      tokens < kTileTokens ? static_cast<int>(tokens) : kTileTokens;
  int t = 0;
  for (; t + kAtOnce <= count; t += kAtOnce) {
    ScanTokens<kAtOnce>(arguments, tile, t, token, channel, lane, d, pairs);
  }
  for (; t < count; ++t) {
    ScanTokens<1>(arguments, tile, t, token, channel, lane, d, pairs);
  }
}

template <int kTileTokens>
__global__ void __launch_bounds__(kScanThreads)
    ScanInRegisters(StepTable step, DiagonalScanArguments arguments) {
  const ScanLane lane = ThisScanLane();
  const int64_t channels = arguments.channels;
  const int64_t first_channel = int64_t{blockIdx.x} * kScanBlockChannels;
  const int64_t channel = first_channel + lane.block_channel;
  const QuarterStates part =
      QuarterStatesOf(arguments.pairs, lane.quarter, channel < channels);
  const int64_t first_place = part.first * 2 * channels + channel;
  Registers pairs = {};
#pragma unroll
  for (int i = 0; i < kLanePairs; ++i) {
    const int64_t place = first_place + i * 2 * channels;
    if (i < part.count) {
      pairs.decay[i] = LoadPairWeight(arguments.decay + place, channels);
      pairs.read[i] = LoadPairWeight(arguments.read + place, channels);
    }
  }
  const float d =
      channel < channels ? LoadConstant(arguments.d + channel) : 0.0f;
  GridWait();
  GridTrigger();
  const StepRow row = RowAt(step, blockIdx.y);
  if (row.tokens == 0 && row.slot_in == row.slot_out) return;
  const float* const in =
      ShareAt(arguments.diagonal_state, row.slot_in) + first_place;
#pragma unroll
  for (int i = 0; i < kLanePairs; ++i) {
    if (i < part.count) {
      pairs.h[i] = LoadPairState(in + i * 2 * channels, channels);
    }
  }
  auto& tile = *DynamicShared<SharedTile<kTileTokens>>();
  FetchedTile<kTileTokens> next;
  next.Fetch(arguments, row.offset, row.tokens, first_channel);
  for (int64_t t = 0; t < row.tokens; t += kTileTokens) {
    next.Put(arguments, tile);
    BlockBarrier();
    next.Fetch(arguments, row.offset + t + kTileTokens,
               row.tokens - t - kTileTokens, first_channel);
    ScanTile(arguments, tile, row.offset + t, row.tokens - t, channel, lane, d,
             pairs);
    BlockBarrier();
  }
  float* const out =
      ShareAt(arguments.diagonal_state, row.slot_out) + first_place;
#pragma unroll
  for (int i = 0; i < kLanePairs; ++i) {
    if (i < part.count)
      StorePairState(out + i * 2 * channels, channels, pairs.h[i]);
  }
}

// Any number of pairs. The first token finds them in slot_in, the others in
// slot_out.
__global__ void __launch_bounds__(kScanThreads)
    ScanInMemory(StepTable step, DiagonalScanArguments arguments) {
  GridWait();
  GridTrigger();
  const ScanLane lane = ThisScanLane();
  const int64_t channels = arguments.channels;
  const int64_t channel =
      int64_t{blockIdx.x} * kScanBlockChannels + lane.block_channel;
  const StepRow row = RowAt(step, blockIdx.y);
  const QuarterStates part =
      QuarterStatesOf(arguments.pairs, lane.quarter, channel < channels);
  const int64_t first_place = part.first * 2 * channels + channel;
  const float* in =
      ShareAt(arguments.diagonal_state, row.slot_in) + first_place;
  float* const out =
      ShareAt(arguments.diagonal_state, row.slot_out) + first_place;
  for (int64_t token = row.offset; token < row.offset + row.tokens; ++token) {
    const float p =
        channel < channels ? Load(At(arguments.p, token, channel)) : 0.0f;
    float sum = 0.0f;
    for (int i = 0; i < part.count; ++i) {
      const int64_t place = first_place + int64_t{i} * 2 * channels;
      Complex h = LoadPairState(in + int64_t{i} * 2 * channels, channels);
      AdvanceDiagonal(p, LoadPairWeight(arguments.decay + place, channels),
                      LoadPairWeight(arguments.read + place, channels), h, sum);
      StorePairState(out + int64_t{i} * 2 * channels, channels, h);
    }
    sum = SumOfQuarters(sum);
    if (lane.quarter == 0 && channel < channels) {
      float y = DiagonalOutput(arguments, p,
                               LoadConstant(arguments.d + channel), sum);
      if (arguments.gate.data != nullptr) {
        y *= Load(At(arguments.gate, token, channel));
      }
      Store(At(arguments.y, token, channel), y);
    }
    in = out;
  }
  if (row.tokens > 0 || row.slot_in == row.slot_out) return;
  for (int i = 0; i < part.count; ++i) {
    const int64_t place = int64_t{i} * 2 * channels;
    StorePairState(out + place, channels, LoadPairState(in + place, channels));
  }
}

}  // namespace

cudaError_t DiagonalScan(cudaStream_t stream, const StepTable& step,
                         const DiagonalScanArguments& arguments) {
  if (step.row_count == 0) return cudaSuccess;
  LaunchShape shape = {dim3(ScanBlocks(arguments.channels),
                            static_cast<unsigned>(step.row_count)),
                       dim3(kScanThreads), 0};
  if (arguments.pairs > kScanQuarters * kLanePairs) {
    return Launch(shape, stream, ScanInMemory, step, arguments);
  }
  if (step.longest_row <= 1) {
    shape.shared_bytes = sizeof(SharedTile<1>);
    return Launch(shape, stream, ScanInRegisters<1>, step, arguments);
  }
  shape.shared_bytes = sizeof(SharedTile<kLongTileTokens>);
  return Launch(shape, stream, ScanInRegisters<kLongTileTokens>, step,
                arguments);
}

}  // namespace engram::cuda
