// An item is one row by kItemChannels channels. Within it, one vector of
// channels after the other runs through the whole row in time order; its states
// [d_state] stay in the first-level cache meanwhile. Channels don't depend on
// each other, so neither vectors nor threads change any result.
//
// Memory per token and channel: reads 12 bytes (x, dt, z) and writes 4 (y); b
// and c are shared by all channels and stay in cache. Per row and channel the
// state is read and written once, 8 d_state bytes, and `a` is read once.
#include "kernels/cpu/selective_scan.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/selective_scan.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(FloatTag());

// What one vector of channels keeps for its row: h and a, [d_state] vectors
// each, `stride` floats apart.
struct ChannelStates {
  float* h;
  const float* a;
  int64_t stride;
};

template <bool kWhole, bool kWholeStates>
HWY_INLINE void ScanTokens(const SelectiveScanArguments& arguments,
                           const Row& row, int64_t channel, size_t count,
                           const ChannelStates& states) {
  const FloatVector dt_bias =
      LoadPart<kWhole>(arguments.dt_bias + channel, count);
  const FloatVector d = LoadPart<kWhole>(arguments.d + channel, count);
  for (int64_t t = row.offset; t < row.offset + row.tokens; ++t) {
    const float* const b = arguments.b.data + t * arguments.b.stride;
    const float* const c = arguments.c.data + t * arguments.c.stride;
    const FloatVector x = LoadPart<kWhole>(
        arguments.x.data + t * arguments.x.stride + channel, count);
    const FloatVector delta = Softplus(hn::Add(
        LoadPart<kWhole>(arguments.dt.data + t * arguments.dt.stride + channel,
                         count),
        dt_bias));
    const FloatVector delta_x = hn::Mul(delta, x);
    FloatVector sum = Constant(0.0f);
    for (int64_t n = 0; n < arguments.d_state; ++n) {
      float* const h_address = states.h + n * states.stride;
      const FloatVector a =
          LoadPart<kWholeStates>(states.a + n * states.stride, count);
      const FloatVector h = hn::MulAdd(Exp(hn::Mul(delta, a)),
                                       LoadPart<kWholeStates>(h_address, count),
                                       hn::Mul(Constant(b[n]), delta_x));
      StorePart<kWholeStates>(h, h_address, count);
      sum = hn::MulAdd(Constant(c[n]), h, sum);
    }
    const FloatVector z = LoadPart<kWhole>(
        arguments.z.data + t * arguments.z.stride + channel, count);
    StorePart<kWhole>(hn::Mul(hn::MulAdd(d, x, sum), Silu(z)),
                      arguments.y.data + t * arguments.y.stride + channel,
                      count);
  }
}

// Up to this many states per channel get a compact copy for a row of several
// tokens. In place they lie d_inner floats apart, which for most d_inner falls
// on few sets of the first-level cache.
constexpr int64_t kCopiedStatesMax = 64;
constexpr int64_t kCopiedTokensMin = 4;

template <bool kWhole>
HWY_INLINE void ScanChannels(const SelectiveScanArguments& arguments,
                             const Row& row, int64_t channel, size_t count) {
  const FloatTag tag;
  const int64_t d_inner = arguments.d_inner;
  const int64_t d_state = arguments.d_state;
  float* const h = arguments.ssm_state + row.slot * d_state * d_inner + channel;
  const float* const a = arguments.a + channel;
  if (d_state > kCopiedStatesMax || row.tokens < kCopiedTokensMin) {
    ScanTokens<kWhole, kWhole>(arguments, row, channel, count, {h, a, d_inner});
    return;
  }
  HWY_ALIGN float h_copy[kCopiedStatesMax * kLanes];
  HWY_ALIGN float a_copy[kCopiedStatesMax * kLanes];
  for (int64_t n = 0; n < d_state; ++n) {
    hn::Store(LoadPart<kWhole>(h + n * d_inner, count), tag,
              h_copy + n * kLanes);
    hn::Store(LoadPart<kWhole>(a + n * d_inner, count), tag,
              a_copy + n * kLanes);
  }
  ScanTokens<kWhole, true>(arguments, row, channel, count,
                           {h_copy, a_copy, kLanes});
  for (int64_t n = 0; n < d_state; ++n) {
    StorePart<kWhole>(hn::Load(tag, h_copy + n * kLanes), h + n * d_inner,
                      count);
  }
}

void SelectiveScanItem(const SelectiveScanArguments& arguments, const Row& row,
                       int64_t channel, int64_t channel_end) {
  for (; channel + kLanes <= channel_end; channel += kLanes) {
    ScanChannels<true>(arguments, row, channel, kLanes);
  }
  if (channel < channel_end) {
    ScanChannels<false>(arguments, row, channel, channel_end - channel);
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

constexpr int64_t kItemChannels = 64;
// State updates below which waking a thread costs more than it saves.
constexpr int64_t kParallelUpdates = 1 << 14;

}  // namespace

void SelectiveScan(ThreadPool& threads, Rows rows,
                   const SelectiveScanArguments& arguments) {
  const int64_t blocks =
      (arguments.d_inner + kItemChannels - 1) / kItemChannels;
  const int64_t items = static_cast<int64_t>(rows.size()) * blocks;
  const auto body = [&](int64_t item) {
    const int64_t channel = item % blocks * kItemChannels;
    HWY_DYNAMIC_DISPATCH(SelectiveScanItem)
    (arguments, rows[item / blocks], channel,
     std::min(channel + kItemChannels, arguments.d_inner));
  };
  int64_t tokens = 0;
  for (const Row& row : rows) tokens += row.tokens;
  if (tokens * arguments.d_inner * arguments.d_state < kParallelUpdates) {
    for (int64_t item = 0; item < items; ++item) body(item);
  } else {
    threads.ParallelFor(items, body);
  }
}

}  // namespace engram::cpu
#endif  // HWY_ONCE
