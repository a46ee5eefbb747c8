#include "kernels/cpu/machine_limits.h"

#include <cmath>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "kernels/status.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/machine_limits.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(FloatTag());

// More chains than a processor has units for, times the cycles that each takes.
constexpr int kChains = 12;

// The prefetchers of a processor follow some streams each, and the misses that
// are under way are what bounds a thread.
constexpr int64_t kStreams = 4;
constexpr int64_t kVectors = 4;

float MultiplyAdds(int64_t count) {
  // From 1 to 2: it neither grows nor vanishes.
  const FloatVector half = Constant(0.5f), one = Constant(1.0f);
  FloatVector chains[kChains];
  for (FloatVector& chain : chains) chain = one;
  for (int64_t i = 0; i < count; ++i) {
    for (FloatVector& chain : chains) chain = hn::MulAdd(chain, half, one);
  }
  FloatVector sum = Constant(0.0f);
  for (const FloatVector& chain : chains) sum = hn::Add(sum, chain);
  return hn::GetLane(sum);
}

float ReadAll(const float* values, int64_t count) {
  const FloatTag tag;
  constexpr int64_t kBlock = kVectors * kLanes;
  const int64_t stream = count / kStreams / kBlock * kBlock;
  FloatVector sums[kStreams];
  for (FloatVector& sum : sums) sum = Constant(0.0f);
  for (int64_t i = 0; i < stream; i += kBlock) {
    for (int64_t s = 0; s < kStreams; ++s) {
      for (int64_t v = 0; v < kVectors; ++v) {
        const float* const place = values + s * stream + i + v * kLanes;
        sums[s] = hn::Add(sums[s], hn::LoadU(tag, place));
      }
    }
  }
  FloatVector sum = Constant(0.0f);
  for (const FloatVector& part : sums) sum = hn::Add(sum, part);
  float rest = 0;
  for (int64_t i = kStreams * stream; i < count; ++i) rest += values[i];
  return rest + hn::GetLane(hn::SumOfLanes(tag, sum));
}

int64_t FloatsOfMultiplyAdds() { return kChains * kLanes; }
const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {
namespace {

HWY_EXPORT(MultiplyAdds);
HWY_EXPORT(ReadAll);
HWY_EXPORT(FloatsOfMultiplyAdds);
HWY_EXPORT(TargetName);

// Each thread has several, so that one that comes late is waited for by nobody.
constexpr int64_t kItemsPerThread = 8;
constexpr int64_t kMultiplyAdds = 1 << 20;
// Long enough for all threads to be woken.
constexpr int64_t kItemNs = 1'000'000;

int64_t ItemsOf(const ThreadPool& threads) {
  return threads.threads() * kItemsPerThread;
}

// What comes of each item is looked at, or a compiler could leave it out.
void RunItems(ThreadPool* threads, absl::FunctionRef<float(int64_t)> item) {
  const int64_t items = ItemsOf(*threads);
  threads->ParallelFor(items, items * kItemNs, [&](int64_t i) {
    ENGRAM_CHECK(std::isfinite(item(i)));
  });
}

}  // namespace

int64_t MultiplyAndAdd(ThreadPool* threads) {
  RunItems(threads, [](int64_t) {
    return HWY_DYNAMIC_DISPATCH(MultiplyAdds)(kMultiplyAdds);
  });
  return 2 * ItemsOf(*threads) * kMultiplyAdds *
         HWY_DYNAMIC_DISPATCH(FloatsOfMultiplyAdds)();
}

void ReadMemory(absl::Span<const float> memory, ThreadPool* threads) {
  const int64_t items = ItemsOf(*threads);
  const auto count = static_cast<int64_t>(memory.size());
  RunItems(threads, [&](int64_t i) {
    const int64_t begin = count * i / items, end = count * (i + 1) / items;
    return HWY_DYNAMIC_DISPATCH(ReadAll)(memory.data() + begin, end - begin);
  });
}

std::string InstructionSet() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace engram::cpu
#endif  // HWY_ONCE
