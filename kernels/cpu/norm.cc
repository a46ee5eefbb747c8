// An item is a few tokens. Reads 4 bytes per element from memory (the second
// and third pass find the token in the first-level cache) and writes 4; the
// gate adds 4 that are read.
//
// Sums run in kPartials partial sums whatever the width of a vector, element i
// into sum i % kPartials, which are then added in one fixed tree. So the result
// does not depend on the processor.
#include "kernels/cpu/norm.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norm.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kPartials = 16;
constexpr int64_t kLanes = hn::MaxLanes(FloatTag());
static_assert(kPartials % kLanes == 0);

HWY_INLINE float AddPartials(float* partials) {
  for (int64_t width = kPartials / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) partials[i] += partials[i + width];
  }
  return partials[0];
}

// Σ over vectors of add(sum so far, index of the first element, elements). In
// an incomplete last vector, lanes behind the end must add zero.
template <class Add>
HWY_INLINE float Accumulate(int64_t count, const Add& add) {
  const FloatTag tag;
  HWY_ALIGN float partials[kPartials] = {};
  for (int64_t start = 0; start < kPartials; start += kLanes) {
    FloatVector sum = hn::Zero(tag);
    for (int64_t i = start; i < count; i += kPartials) {
      sum = add(sum, i, std::min(kLanes, count - i));
    }
    hn::Store(sum, tag, partials + start);
  }
  return AddPartials(partials);
}

HWY_INLINE FloatVector LoadUpTo(const float* source, int64_t count) {
  return count == kLanes ? LoadPart<true>(source, count)
                         : LoadPart<false>(source, count);
}

// Σ values[i].
HWY_INLINE float Sum(const float* values, int64_t count) {
  return Accumulate(
      count, [values](FloatVector sum, int64_t i, int64_t lanes) HWY_ATTR {
        return hn::Add(sum, LoadUpTo(values + i, lanes));
      });
}

// Σ (values[i] - mean)².
HWY_INLINE float SumOfSquares(const float* values, int64_t count, float mean) {
  return Accumulate(count, [values, mean](FloatVector sum, int64_t i,
                                          int64_t lanes) HWY_ATTR {
    const auto exist = hn::FirstN(FloatTag(), lanes);
    const FloatVector centred = hn::IfThenElseZero(
        exist, hn::Sub(LoadUpTo(values + i, lanes), Constant(mean)));
    return hn::MulAdd(centred, centred, sum);
  });
}

template <bool kWhole>
HWY_INLINE void Scale(const NormWeights& norm, float mean, float scale,
                      const float* residual, float* normed, int64_t i,
                      size_t count) {
  FloatVector value = LoadPart<kWhole>(residual + i, count);
  if (norm.kind == NormKind::kLayer) value = hn::Sub(value, Constant(mean));
  value = hn::Mul(hn::Mul(value, Constant(scale)),
                  LoadPart<kWhole>(norm.weight + i, count));
  if (norm.kind == NormKind::kLayer) {
    value = hn::Add(value, LoadPart<kWhole>(norm.bias + i, count));
  }
  StorePart<kWhole>(value, normed + i, count);
}

void NormToken(const NormWeights& norm, int64_t d_model, const float* residual,
               float* normed) {
  const float elements = static_cast<float>(d_model);
  const float mean =
      norm.kind == NormKind::kLayer ? Sum(residual, d_model) / elements : 0.0f;
  const float variance = SumOfSquares(residual, d_model, mean) / elements;
  const float scale = 1.0f / std::sqrt(variance + norm.epsilon);
  int64_t i = 0;
  for (; i + kLanes <= d_model; i += kLanes) {
    Scale<true>(norm, mean, scale, residual, normed, i, kLanes);
  }
  if (i < d_model) {
    Scale<false>(norm, mean, scale, residual, normed, i, d_model - i);
  }
}

template <bool kWhole>
HWY_INLINE void Gate(const float* y, const float* z, float* gated, int64_t i,
                     size_t count) {
  StorePart<kWhole>(hn::Mul(LoadPart<kWhole>(y + i, count),
                            Silu(LoadPart<kWhole>(z + i, count))),
                    gated + i, count);
}

void GatedNormToken(const GatedNormArguments& arguments, int64_t token) {
  const int64_t d_inner = arguments.d_inner;
  const float* const y = arguments.y.floats() + token * arguments.y.stride;
  const float* const z = arguments.z.floats() + token * arguments.z.stride;
  float* const normed =
      arguments.normed.floats() + token * arguments.normed.stride;
  int64_t i = 0;
  for (; i + kLanes <= d_inner; i += kLanes) {
    Gate<true>(y, z, normed, i, kLanes);
  }
  if (i < d_inner) Gate<false>(y, z, normed, i, d_inner - i);
  if (arguments.weight == nullptr) return;
  const int64_t group_width = d_inner / arguments.groups;
  for (int64_t first = 0; first < d_inner; first += group_width) {
    const NormWeights norm = {NormKind::kRms, arguments.weight + first, nullptr,
                              arguments.epsilon};
    NormToken(norm, group_width, normed + first, normed + first);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {
namespace {

HWY_EXPORT(NormToken);
HWY_EXPORT(GatedNormToken);

// Enough to pay for taking an item.
constexpr int64_t kItemElements = 1 << 13;
// Of one element.
constexpr double kNormNs = 0.25;
constexpr double kGatedNormNs = 0.6;

template <class Body>
void ForEachToken(ThreadPool& threads, int64_t tokens, int64_t width,
                  double element_ns, const Body& body) {
  const int64_t item_tokens = std::max<int64_t>(1, kItemElements / width);
  const int64_t items = (tokens + item_tokens - 1) / item_tokens;
  const double work_ns = element_ns * static_cast<double>(tokens * width);
  threads.ParallelFor(items, static_cast<int64_t>(work_ns), [&](int64_t item) {
    const int64_t end = std::min((item + 1) * item_tokens, tokens);
    for (int64_t token = item * item_tokens; token < end; ++token) body(token);
  });
}

}  // namespace

void Norm(ThreadPool& threads, const NormWeights& norm, int64_t tokens,
          int64_t d_model, const float* residual, Matrix normed) {
  ForEachToken(threads, tokens, d_model, kNormNs, [&](int64_t token) {
    HWY_DYNAMIC_DISPATCH(NormToken)
    (norm, d_model, residual + token * d_model,
     normed.floats() + token * normed.stride);
  });
}

void GatedNorm(ThreadPool& threads, const GatedNormArguments& arguments) {
  ForEachToken(threads, arguments.tokens, arguments.d_inner, kGatedNormNs,
               [&](int64_t token) {
                 HWY_DYNAMIC_DISPATCH(GatedNormToken)(arguments, token);
               });
}

}  // namespace engram::cpu
#endif  // HWY_ONCE
