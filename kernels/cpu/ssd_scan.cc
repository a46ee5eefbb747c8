// An item is one row by one head, in time order. A vector holds neighbouring
// channels of the head, which don't depend on each other, so neither vectors
// nor threads change any result.
//
// The published algorithm turns a chunk of tokens into matrix products, which
// on a CPU gains nothing and would round each cut into chunks differently.
// Instead up to kBlockTokens tokens pass over the state together: each of its
// elements is loaded once, goes through them in time order in a register, and
// is stored once. The order of operations is that of single tokens.
//
// Memory per token and channel: reads 4 bytes (x) and writes 4 (y); b and c are
// shared by the heads of a group. Per block of tokens the state is read and
// written once, 8 d_state bytes per channel; between the blocks of a row it
// stays in the first- or second-level cache.
#include "kernels/cpu/ssd_scan.h"

#include <algorithm>

#include "kernels/cpu/row_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/ssd_scan.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(FloatTag());
// So many tokens by so many vectors of channels: sums, inputs and states of
// such a tile fit into the registers.
constexpr int kBlockTokens = 4;
constexpr int kTileVectors = 2;

// What a head does to its state at each token of a block; in whole vectors.
struct Steps {
  static constexpr int64_t kFloats = std::max<int64_t>(kBlockTokens, kLanes);
  HWY_ALIGN float delta[kFloats];
  HWY_ALIGN float decay[kFloats];
};

// One head's tensors, from the first token of a block on.
struct HeadBlock {
  const float* x;  // [tokens, head_dim], x_stride floats apart; so are the next
  const float* b;  // [tokens, d_state]
  const float* c;  // [tokens, d_state]
  float* y;        // [tokens, head_dim]
  int64_t x_stride, b_stride, c_stride, y_stride;
  float* state;  // [d_state, head_dim]
  int64_t head_dim;
  int64_t d_state;
  float d;
  Steps steps;
};

Steps ComputeSteps(const SsdScanArguments& arguments, int64_t head,
                   int64_t token, int64_t tokens) {
  const FloatTag tag;
  Steps steps = {};
  for (int64_t t = 0; t < tokens; ++t) {
    steps.delta[t] =
        arguments.dt.floats()[(token + t) * arguments.dt.stride + head];
  }
  const FloatVector low = Constant(arguments.dt_min);
  const FloatVector high = Constant(arguments.dt_max);
  for (int64_t t = 0; t < Steps::kFloats; t += kLanes) {
    const FloatVector dt = hn::Load(tag, steps.delta + t);
    FloatVector delta =
        Softplus(hn::Add(dt, Constant(arguments.dt_bias[head])));
    // Comparisons rather than Min and Max: NaN stays NaN.
    delta = hn::IfThenElse(hn::Lt(delta, low), low, delta);
    delta = hn::IfThenElse(hn::Gt(delta, high), high, delta);
    hn::Store(delta, tag, steps.delta + t);
    hn::Store(Exp(hn::Mul(delta, Constant(arguments.a[head]))), tag,
              steps.decay + t);
  }
  return steps;
}

// kTokens tokens of kVectors vectors of channels from `channel` on. If not
// kWhole, the one vector has `count` channels.
template <int kTokens, int kVectors, bool kWhole>
HWY_INLINE void ScanTile(const HeadBlock& block, int64_t channel,
                         size_t count) {
  FloatVector delta_x[kTokens][kVectors];
  FloatVector sum[kTokens][kVectors];
  for (int t = 0; t < kTokens; ++t) {
    const float* const x = block.x + t * block.x_stride + channel;
    for (int v = 0; v < kVectors; ++v) {
      delta_x[t][v] = hn::Mul(Constant(block.steps.delta[t]),
                              LoadPart<kWhole>(x + v * kLanes, count));
      sum[t][v] = Constant(0.0f);
    }
  }
  for (int64_t n = 0; n < block.d_state; ++n) {
    float* const state = block.state + n * block.head_dim + channel;
    FloatVector h[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      h[v] = LoadPart<kWhole>(state + v * kLanes, count);
    }
    for (int t = 0; t < kTokens; ++t) {
      const FloatVector decay = Constant(block.steps.decay[t]);
      const FloatVector b = Constant(block.b[t * block.b_stride + n]);
      const FloatVector c = Constant(block.c[t * block.c_stride + n]);
      for (int v = 0; v < kVectors; ++v) {
        h[v] = hn::MulAdd(decay, h[v], hn::Mul(b, delta_x[t][v]));
        sum[t][v] = hn::MulAdd(c, h[v], sum[t][v]);
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      StorePart<kWhole>(h[v], state + v * kLanes, count);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    const float* const x = block.x + t * block.x_stride + channel;
    float* const y = block.y + t * block.y_stride + channel;
    for (int v = 0; v < kVectors; ++v) {
      const FloatVector skip = LoadPart<kWhole>(x + v * kLanes, count);
      StorePart<kWhole>(hn::MulAdd(Constant(block.d), skip, sum[t][v]),
                        y + v * kLanes, count);
    }
  }
}

// All channels of a head.
template <int kTokens>
HWY_INLINE void ScanBlock(const HeadBlock& block) {
  constexpr int64_t kTileChannels = kTileVectors * kLanes;
  const int64_t channels = block.head_dim;
  int64_t channel = 0;
  for (; channel + kTileChannels <= channels; channel += kTileChannels) {
    ScanTile<kTokens, kTileVectors, true>(block, channel, kLanes);
  }
  for (; channel + kLanes <= channels; channel += kLanes) {
    ScanTile<kTokens, 1, true>(block, channel, kLanes);
  }
  if (channel < channels) {
    ScanTile<kTokens, 1, false>(block, channel, channels - channel);
  }
}

// `state` is that of the head.
HeadBlock BlockAt(const SsdScanArguments& arguments, float* state, int64_t head,
                  int64_t token, int64_t tokens) {
  const int64_t head_dim = arguments.head_dim;
  const int64_t d_state = arguments.d_state;
  const int64_t group = head / (arguments.heads / arguments.groups);
  const auto at = [token](const auto& matrix, int64_t column) {
    return matrix.floats() + token * matrix.stride + column;
  };
  HeadBlock block;
  block.x = at(arguments.x, head * head_dim);
  block.b = at(arguments.b, group * d_state);
  block.c = at(arguments.c, group * d_state);
  block.y = at(arguments.y, head * head_dim);
  block.x_stride = arguments.x.stride;
  block.b_stride = arguments.b.stride;
  block.c_stride = arguments.c.stride;
  block.y_stride = arguments.y.stride;
  block.state = state;
  block.head_dim = head_dim;
  block.d_state = d_state;
  block.d = arguments.d[head];
  block.steps = ComputeSteps(arguments, head, token, tokens);
  return block;
}

void SsdScanItem(const SsdScanArguments& arguments, const Row& row,
                 int64_t head) {
  const int64_t state_floats = arguments.d_state * arguments.head_dim;
  float* const state =
      StateOf(arguments.ssm_state, row,
              {.first = head * state_floats, .width = state_floats});
  int64_t token = row.offset;
  const int64_t end = token + row.tokens;
  for (; token + kBlockTokens <= end; token += kBlockTokens) {
    ScanBlock<kBlockTokens>(
        BlockAt(arguments, state, head, token, kBlockTokens));
  }
  for (; token < end; ++token) {
    ScanBlock<1>(BlockAt(arguments, state, head, token, 1));
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {
namespace {

HWY_EXPORT(SsdScanItem);

// Of one state of one token.
constexpr double kUpdateNs = 0.12;

}  // namespace

void SsdScan(ThreadPool& threads, const StepRows& step,
             const SsdScanArguments& arguments) {
  const int64_t heads = arguments.heads;
  ForEachRowPart(threads, step, heads,
                 kUpdateNs * static_cast<double>(heads * arguments.head_dim *
                                                 arguments.d_state),
                 [&](const Row& row, int64_t head) {
                   HWY_DYNAMIC_DISPATCH(SsdScanItem)(arguments, row, head);
                 });
}

}  // namespace engram::cpu
#endif  // HWY_ONCE
