// An item is one row by kItemChannels channels, a vector of them at a time. Up
// to kChunkTokens tokens pass over the states together: a few pairs stay in
// registers while the tokens run, and the sums of the tokens wait in the
// first-level cache for the next pairs. Each sum so adds up its pairs in
// ascending order, as it does for a single token.
//
// A form by powers of the decay, which are common to all tokens, would turn a
// chunk into products of matrices, but would round each cut into chunks
// differently.
//
// Memory per token and channel: reads 8 bytes (p, gate) and writes 4 (y). Per
// chunk and channel the states are read and written once, 16 bytes per pair,
// and decay and read are read, 16 more.
#include "kernels/cpu/diagonal_scan.h"

#include <algorithm>

#include "kernels/cpu/row_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/diagonal_scan.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(FloatTag());
// Inputs and sums of a chunk take at most half of a first-level cache.
constexpr int64_t kChunkTokens = 128;
// Each pair takes six registers, and has a chain of two multiply-adds from one
// token to the next that others must fill.
constexpr bool kManyRegisters = HWY_MAX_BYTES == 64 || HWY_ARCH_ARM;
constexpr int64_t kTilePairs = kManyRegisters ? 4 : 2;

// The tokens of a chunk for one vector of channels; whole vectors, lanes behind
// the last channel are zero.
struct Chunk {
  int64_t tokens;
  HWY_ALIGN float p[kChunkTokens * kLanes];
  HWY_ALIGN float sums[kChunkTokens * kLanes];
};

// A vector of channels of the tensors [pairs, 2, channels].
struct Pairs {
  const float* decay;
  const float* read;
  float* state;
  int64_t channels;
};

// kPairs pairs from `pair` on, through all tokens of the chunk.
template <int64_t kPairs, bool kWhole>
HWY_INLINE void ScanTile(const Pairs& pairs, int64_t pair, Chunk& chunk,
                         size_t count) {
  const FloatTag tag;
  FloatVector decay[kPairs][2], read[kPairs][2], state[kPairs][2];
  for (int64_t n = 0; n < kPairs; ++n) {
    for (int64_t part = 0; part < 2; ++part) {
      const int64_t offset = ((pair + n) * 2 + part) * pairs.channels;
      decay[n][part] = LoadPart<kWhole>(pairs.decay + offset, count);
      read[n][part] = LoadPart<kWhole>(pairs.read + offset, count);
      state[n][part] = LoadPart<kWhole>(pairs.state + offset, count);
    }
  }
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    const FloatVector p = hn::Load(tag, chunk.p + t * kLanes);
    FloatVector sum = hn::Load(tag, chunk.sums + t * kLanes);
    for (int64_t n = 0; n < kPairs; ++n) {
      const FloatVector real = hn::MulAdd(
          decay[n][0], state[n][0], hn::NegMulAdd(decay[n][1], state[n][1], p));
      const FloatVector imaginary = hn::MulAdd(
          decay[n][1], state[n][0], hn::Mul(decay[n][0], state[n][1]));
      sum = hn::MulAdd(read[n][0], real, sum);
      sum = hn::NegMulAdd(read[n][1], imaginary, sum);
      state[n][0] = real;
      state[n][1] = imaginary;
    }
    hn::Store(sum, tag, chunk.sums + t * kLanes);
  }
  for (int64_t n = 0; n < kPairs; ++n) {
    for (int64_t part = 0; part < 2; ++part) {
      const int64_t offset = ((pair + n) * 2 + part) * pairs.channels;
      StorePart<kWhole>(state[n][part], pairs.state + offset, count);
    }
  }
}

// The chunk that begins at `token`, for the vector of channels at `channel`.
template <bool kWhole>
HWY_INLINE void ScanChunk(const DiagonalScanArguments& arguments,
                          const Pairs& pairs, int64_t token, int64_t channel,
                          size_t count, Chunk& chunk) {
  const FloatTag tag;
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    const float* const p =
        arguments.p.floats() + (token + t) * arguments.p.stride + channel;
    hn::Store(LoadPart<kWhole>(p, count), tag, chunk.p + t * kLanes);
    hn::Store(Constant(0.0f), tag, chunk.sums + t * kLanes);
  }
  int64_t pair = 0;
  for (; pair + kTilePairs <= arguments.pairs; pair += kTilePairs) {
    ScanTile<kTilePairs, kWhole>(pairs, pair, chunk, count);
  }
  for (; pair < arguments.pairs; ++pair) {
    ScanTile<1, kWhole>(pairs, pair, chunk, count);
  }
  const FloatVector d = LoadPart<kWhole>(arguments.d + channel, count);
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    FloatVector y =
        Activate(arguments.activation,
                 hn::MulAdd(d, hn::Load(tag, chunk.p + t * kLanes),
                            hn::Load(tag, chunk.sums + t * kLanes)));
    if (arguments.gate.data != nullptr) {
      const float* const gate = arguments.gate.floats() +
                                (token + t) * arguments.gate.stride + channel;
      y = hn::Mul(y, LoadPart<kWhole>(gate, count));
    }
    StorePart<kWhole>(
        y, arguments.y.floats() + (token + t) * arguments.y.stride + channel,
        count);
  }
}

template <bool kWhole>
HWY_INLINE void ScanVector(const DiagonalScanArguments& arguments,
                           const Row& row, int64_t channel, size_t count,
                           Chunk& chunk) {
  const int64_t channels = arguments.channels;
  float* const state = StateOf(arguments.diagonal_state, row,
                               {.first = channel,
                                .lines = arguments.pairs * 2,
                                .stride = channels,
                                .width = static_cast<int64_t>(count)});
  const Pairs pairs{arguments.decay + channel, arguments.read + channel, state,
                    channels};
  for (int64_t t = 0; t < row.tokens; t += kChunkTokens) {
    chunk.tokens = std::min(kChunkTokens, row.tokens - t);
    ScanChunk<kWhole>(arguments, pairs, row.offset + t, channel, count, chunk);
  }
}

void DiagonalScanItem(const DiagonalScanArguments& arguments, const Row& row,
                      int64_t channel_begin, int64_t channel_end) {
  Chunk chunk;
  int64_t channel = channel_begin;
  for (; channel + kLanes <= channel_end; channel += kLanes) {
    ScanVector<true>(arguments, row, channel, kLanes, chunk);
  }
  if (channel < channel_end) {
    ScanVector<false>(arguments, row, channel, channel_end - channel, chunk);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {
namespace {

HWY_EXPORT(DiagonalScanItem);

constexpr int64_t kItemChannels = 64;
// Of one pair of one token.
constexpr double kUpdateNs = 0.25;

}  // namespace

void DiagonalScan(ThreadPool& threads, const StepRows& step,
                  const DiagonalScanArguments& arguments) {
  ForEachRowAndChannels(
      threads, step, arguments.channels, kItemChannels,
      kUpdateNs * static_cast<double>(arguments.channels * arguments.pairs),
      [&](const Row& row, int64_t channel_begin, int64_t channel_end) {
        HWY_DYNAMIC_DISPATCH(DiagonalScanItem)
        (arguments, row, channel_begin, channel_end);
      });
}

}  // namespace engram::cpu
#endif  // HWY_ONCE
