// An item is one row by kScanItemChannels channels, in time order; their states
// stay in the first-level cache meanwhile. Channels don't depend on each other,
// so neither vectors nor threads change any result.
//
// Memory per token and channel: reads 12 bytes (x, dt, z) and writes 4 (y); b
// and c are shared by all channels and stay in cache. Per row and channel the
// state is read and written once, 8 d_state bytes, and `a` is read once.
#include "kernels/cpu/selective_scan.h"

#include <cstring>

#include "kernels/cpu/row_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/selective_scan.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

// Shared by all targets, hence defined once.
#ifndef ENGRAM_KERNELS_CPU_SELECTIVE_SCAN_ONCE_
#define ENGRAM_KERNELS_CPU_SELECTIVE_SCAN_ONCE_
namespace engram::cpu {
inline constexpr int64_t kScanItemChannels = 64;
}  // namespace engram::cpu
#endif  // ENGRAM_KERNELS_CPU_SELECTIVE_SCAN_ONCE_

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(FloatTag());

// h and a of a block's channels: [d_state] rows, `stride` floats apart.
struct BlockStates {
  float* h;
  const float* a;
  int64_t stride;
};

// One token of the vector of channels at `channel`, whose states lie at `h` and
// `a`. kWholeStates: these have all lanes, even if the channels have not.
template <bool kWhole, bool kWholeStates>
HWY_INLINE void ScanToken(const SelectiveScanArguments& arguments,
                          int64_t token, int64_t channel, size_t count,
                          float* h, const float* a, int64_t stride) {
  const auto load = [&](ConstMatrix matrix) HWY_ATTR {
    return LoadPart<kWhole>(matrix.floats() + token * matrix.stride + channel,
                            count);
  };
  const float* const b = arguments.b.floats() + token * arguments.b.stride;
  const float* const c = arguments.c.floats() + token * arguments.c.stride;
  const FloatVector x = load(arguments.x);
  const FloatVector delta =
      Softplus(hn::Add(load(arguments.dt),
                       LoadPart<kWhole>(arguments.dt_bias + channel, count)));
  const FloatVector delta_x = hn::Mul(delta, x);
  FloatVector sum = Constant(0.0f);
  for (int64_t n = 0; n < arguments.d_state; ++n) {
    const FloatVector decay =
        Exp(hn::Mul(delta, LoadPart<kWholeStates>(a + n * stride, count)));
    const FloatVector next =
        hn::MulAdd(decay, LoadPart<kWholeStates>(h + n * stride, count),
                   hn::Mul(Constant(b[n]), delta_x));
    StorePart<kWholeStates>(next, h + n * stride, count);
    sum = hn::MulAdd(Constant(c[n]), next, sum);
  }
  const FloatVector d = LoadPart<kWhole>(arguments.d + channel, count);
  StorePart<kWhole>(hn::Mul(hn::MulAdd(d, x, sum), Silu(load(arguments.z))),
                    arguments.y.floats() + token * arguments.y.stride + channel,
                    count);
}

// All tokens of a row for a block of channels.
template <bool kWholeStates>
HWY_INLINE void ScanBlock(const SelectiveScanArguments& arguments,
                          const Row& row, int64_t channel_begin,
                          int64_t channel_end, const BlockStates& states) {
  for (int64_t t = row.offset; t < row.offset + row.tokens; ++t) {
    float* h = states.h;
    const float* a = states.a;
    int64_t channel = channel_begin;
    for (; channel + kLanes <= channel_end; channel += kLanes) {
      ScanToken<true, true>(arguments, t, channel, kLanes, h, a, states.stride);
      h += kLanes;
      a += kLanes;
    }
    if (channel < channel_end) {
      ScanToken<false, kWholeStates>(
          arguments, t, channel, channel_end - channel, h, a, states.stride);
    }
  }
}

// Up to this many states per channel get a compact copy for a row of several
// tokens. In place they lie d_inner floats apart, which for most d_inner falls
// on few sets of the first-level cache.
constexpr int64_t kCopiedStatesMax = 64;
constexpr int64_t kCopiedTokensMin = 4;

void SelectiveScanItem(const SelectiveScanArguments& arguments, const Row& row,
                       int64_t channel_begin, int64_t channel_end) {
  const int64_t d_inner = arguments.d_inner;
  const int64_t d_state = arguments.d_state;
  float* const h = StateOf(arguments.ssm_state, row,
                           {.first = channel_begin,
                            .lines = d_state,
                            .stride = d_inner,
                            .width = channel_end - channel_begin});
  const float* const a = arguments.a + channel_begin;
  if (d_state > kCopiedStatesMax || row.tokens < kCopiedTokensMin) {
    ScanBlock<false>(arguments, row, channel_begin, channel_end,
                     {h, a, d_inner});
    return;
  }
  // The copy has the layout [d_state, kScanItemChannels]; lanes behind the last
  // channel compute on zeros.
  HWY_ALIGN float h_copy[kCopiedStatesMax * kScanItemChannels];
  HWY_ALIGN float a_copy[kCopiedStatesMax * kScanItemChannels];
  const size_t bytes = (channel_end - channel_begin) * sizeof(float);
  for (int64_t n = 0; n < d_state; ++n) {
    std::memset(h_copy + n * kScanItemChannels, 0,
                kScanItemChannels * sizeof(float));
    std::memset(a_copy + n * kScanItemChannels, 0,
                kScanItemChannels * sizeof(float));
    std::memcpy(h_copy + n * kScanItemChannels, h + n * d_inner, bytes);
    std::memcpy(a_copy + n * kScanItemChannels, a + n * d_inner, bytes);
  }
  ScanBlock<true>(arguments, row, channel_begin, channel_end,
                  {h_copy, a_copy, kScanItemChannels});
  for (int64_t n = 0; n < d_state; ++n) {
    std::memcpy(h + n * d_inner, h_copy + n * kScanItemChannels, bytes);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {
namespace {

HWY_EXPORT(SelectiveScanItem);

// Of one state of one token.
constexpr double kUpdateNs = 0.4;

}  // namespace

void SelectiveScan(ThreadPool& threads, const StepRows& step,
                   const SelectiveScanArguments& arguments) {
  ForEachRowAndChannels(
      threads, step, arguments.d_inner, kScanItemChannels,
      kUpdateNs * static_cast<double>(arguments.d_inner * arguments.d_state),
      [&](const Row& row, int64_t channel_begin, int64_t channel_end) {
        HWY_DYNAMIC_DISPATCH(SelectiveScanItem)
        (arguments, row, channel_begin, channel_end);
      });
}

}  // namespace engram::cpu
#endif  // HWY_ONCE
