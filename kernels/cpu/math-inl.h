// Vector mathematics that several kernels share, compiled once per target of
// Highway: exp, softplus, the activations, and loads and stores of incomplete
// vectors.
//
// The same functions serve decode and prefill, full vectors and tails, so all
// of them give the same bits. Only operations that IEEE 754 rounds exactly are
// used (no approximate reciprocals), so every target with fused multiply-add
// gives the same bits too.

// A toggled guard instead of #pragma once: foreach_target.h includes the file
// once per target.
#if defined(ENGRAM_KERNELS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ENGRAM_KERNELS_CPU_MATH_INL_H_
#undef ENGRAM_KERNELS_CPU_MATH_INL_H_
#else
#define ENGRAM_KERNELS_CPU_MATH_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/backend.h"

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One vector of float of the target's width.
using FloatTag = hn::ScalableTag<float>;
using FloatVector = hn::Vec<FloatTag>;

HWY_INLINE FloatVector Constant(float value) {
  return hn::Set(FloatTag(), value);
}

// `count` floats, the remaining lanes zero; reads no byte beyond them.
HWY_INLINE FloatVector LoadFirst(const float* source, size_t count) {
  const FloatTag tag;
  HWY_ALIGN float lanes[hn::MaxLanes(FloatTag())] = {};
  std::memcpy(lanes, source, count * sizeof(float));
  return hn::Load(tag, lanes);
}

// Stores the first `count` lanes; writes no byte beyond them.
HWY_INLINE void StoreFirst(FloatVector values, float* target, size_t count) {
  const FloatTag tag;
  HWY_ALIGN float lanes[hn::MaxLanes(FloatTag())];
  hn::Store(values, tag, lanes);
  std::memcpy(target, lanes, count * sizeof(float));
}

// Access to a vector of which `count` lanes exist: all of them if kWhole.
template <bool kWhole>
HWY_INLINE FloatVector LoadPart(const float* source, size_t count) {
  if constexpr (kWhole) return hn::LoadU(FloatTag(), source);
  return LoadFirst(source, count);
}
template <bool kWhole>
HWY_INLINE void StorePart(FloatVector values, float* target, size_t count) {
  if constexpr (kWhole) {
    hn::StoreU(values, FloatTag(), target);
  } else {
    StoreFirst(values, target, count);
  }
}

// e^x within 2 units in the last place; 0 below -87 (the smallest normal float
// is e^-87.3), infinity above 88.72; NaN stays NaN.
//
// x = k ln 2 + r with an integer k and |r| <= ln(2) / 2; e^r by its Taylor
// series, whose first neglected term is below 1e-8; then times 2^k.
HWY_INLINE FloatVector Exp(FloatVector x) {
  const FloatTag tag;
  const hn::RebindToSigned<FloatTag> integer_tag;
  // Comparisons rather than Min and Max, whose answer to NaN differs between
  // processors. Beyond these bounds k would not fit an exponent.
  x = hn::IfThenElse(hn::Lt(x, Constant(-87.5f)), Constant(-87.5f), x);
  x = hn::IfThenElse(hn::Gt(x, Constant(89.0f)), Constant(89.0f), x);
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const FloatVector shifter = Constant(0x1.8p23f);
  const FloatVector shifted =
      hn::MulAdd(x, Constant(0x1.715476p+0f), shifter);  // 1 / ln 2
  const FloatVector k = hn::Sub(shifted, shifter);
  // ln 2 in two parts; the first has so few bits that its product with k is
  // exact even where there is no fused multiply-add.
  FloatVector r = hn::NegMulAdd(k, Constant(0x1.63p-1f), x);
  r = hn::NegMulAdd(k, Constant(-0x1.bd0106p-13f), r);
  // Twice the series, because the scale below is 2^(k-1): 2^128 would not fit.
  FloatVector sum = Constant(2.0f / 5040.0f);
  sum = hn::MulAdd(sum, r, Constant(2.0f / 720.0f));
  sum = hn::MulAdd(sum, r, Constant(2.0f / 120.0f));
  sum = hn::MulAdd(sum, r, Constant(2.0f / 24.0f));
  sum = hn::MulAdd(sum, r, Constant(2.0f / 6.0f));
  sum = hn::MulAdd(sum, r, Constant(1.0f));
  sum = hn::MulAdd(sum, r, Constant(2.0f));
  sum = hn::MulAdd(sum, r, Constant(2.0f));
  // The exponent field of 2^(k-1) is k + 126; the shift drops what the shifter
  // left above it. k = -126 gives the field 0, which is the number 0.
  const auto exponent =
      hn::Add(hn::BitCast(integer_tag, shifted), hn::Set(integer_tag, 126));
  const FloatVector scale = hn::BitCast(tag, hn::ShiftLeft<23>(exponent));
  return hn::Mul(sum, scale);
}

// log(1 + e^x), accurate relative to its value however small that is.
//
// As max(x, 0) + log1p(u) with u = e^-|x| in [0, 1], and log1p(u) =
// 2 artanh(t) with t = u / (2 + u) in [0, 1/3]; the series of artanh stops
// where terms fall below 1e-8 of the sum. Above 20 the sum rounds to x itself.
HWY_INLINE FloatVector Softplus(FloatVector x) {
  const FloatVector u = Exp(hn::Neg(hn::Abs(x)));
  const FloatVector t = hn::Div(u, hn::Add(u, Constant(2.0f)));
  const FloatVector square = hn::Mul(t, t);
  FloatVector sum = Constant(2.0f / 15.0f);
  sum = hn::MulAdd(sum, square, Constant(2.0f / 13.0f));
  sum = hn::MulAdd(sum, square, Constant(2.0f / 11.0f));
  sum = hn::MulAdd(sum, square, Constant(2.0f / 9.0f));
  sum = hn::MulAdd(sum, square, Constant(2.0f / 7.0f));
  sum = hn::MulAdd(sum, square, Constant(2.0f / 5.0f));
  sum = hn::MulAdd(sum, square, Constant(2.0f / 3.0f));
  sum = hn::MulAdd(sum, square, Constant(2.0f));
  const FloatVector zero = Constant(0.0f);
  const FloatVector positive_part = hn::IfThenElse(hn::Gt(x, zero), x, zero);
  return hn::MulAdd(sum, t, positive_part);
}

// x * sigmoid(x).
HWY_INLINE FloatVector Silu(FloatVector x) {
  return hn::Div(x, hn::Add(Constant(1.0f), Exp(hn::Neg(x))));
}

// 1 + erf(x / sqrt(2)), accurate relative to its value on both sides.
//
// With u = |x| / sqrt(2), erfc(u) = exp(-u²) erfcx(u), and erfcx is a
// polynomial of t = 1 / (1 + u / 2), fitted where exp(-u²) is a normal float,
// to a relative error of 3.1e-8. On the negative side 1 + erf is erfc(u), with
// nothing subtracted; on the other it is 2 - erfc(u).
HWY_INLINE FloatVector OnePlusErf(FloatVector x) {
  const FloatVector one = Constant(1.0f);
  const FloatVector t = hn::Div(
      one, hn::MulAdd(hn::Abs(x), Constant(0.353553391f), one));  // 1 / sqrt(8)
  FloatVector sum = Constant(-0.0543247275f);
  sum = hn::MulAdd(sum, t, Constant(0.260103673f));
  sum = hn::MulAdd(sum, t, Constant(-0.432916224f));
  sum = hn::MulAdd(sum, t, Constant(0.210310116f));
  sum = hn::MulAdd(sum, t, Constant(0.0256483015f));
  sum = hn::MulAdd(sum, t, Constant(0.176923603f));
  sum = hn::MulAdd(sum, t, Constant(0.251189023f));
  sum = hn::MulAdd(sum, t, Constant(0.280821741f));
  sum = hn::MulAdd(sum, t, Constant(0.282251924f));
  sum = hn::MulAdd(sum, t, Constant(-7.4388172e-06f));
  const FloatVector erfc =
      hn::Mul(Exp(hn::Mul(hn::Mul(x, Constant(-0.5f)), x)), sum);
  return hn::IfThenElse(hn::Lt(x, Constant(0.0f)), erfc,
                        hn::Sub(Constant(2.0f), erfc));
}

// x (1 + erf(x / sqrt(2))) / 2.
HWY_INLINE FloatVector Gelu(FloatVector x) {
  return hn::Mul(hn::Mul(Constant(0.5f), x), OnePlusErf(x));
}

// x (1 + tanh(w)) / 2 with w = sqrt(2/π) (x + 0.044715 x³), which is
// x / (1 + exp(-2 w)): nothing is subtracted where tanh is near -1.
HWY_INLINE FloatVector GeluTanh(FloatVector x) {
  const FloatVector factor = hn::MulAdd(hn::Mul(x, x), Constant(-0.0713548163f),
                                        Constant(-1.59576912f));
  return hn::Div(x, hn::Add(Constant(1.0f), Exp(hn::Mul(x, factor))));
}

HWY_INLINE FloatVector Activate(Activation activation, FloatVector x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kSilu:
      return Silu(x);
    case Activation::kGelu:
      return Gelu(x);
    case Activation::kGeluTanh:
      return GeluTanh(x);
  }
  return x;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#endif  // ENGRAM_KERNELS_CPU_MATH_INL_H_
