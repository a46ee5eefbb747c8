// exp, softplus and the activations for all kernels: the arithmetic of
// kernels/cpu/math-inl.h, where it is explained, operation by operation and so
// bit for bit, on a device as in its emulation.
#pragma once

#include <cmath>

#include "kernels/cuda/device.h"
#include "kernels/operations.h"
#include "kernels/sampling_rule.h"

namespace engram::cuda {

// e^x within 2 units in the last place; 0 below -87, infinity above 88.72; NaN
// stays NaN.
__device__ inline float Exp(float x) {
  return ExpUpTo89(x > 89.0f ? 89.0f : x);
}

// log(1 + e^x), accurate relative to its value however small that is.
__device__ inline float Softplus(float x) {
  const float u = Exp(-fabsf(x));
  const float t = u / (u + 2.0f);
  const float square = t * t;
  float sum = 2.0f / 15.0f;
  sum = fmaf(sum, square, 2.0f / 13.0f);
  sum = fmaf(sum, square, 2.0f / 11.0f);
  sum = fmaf(sum, square, 2.0f / 9.0f);
  sum = fmaf(sum, square, 2.0f / 7.0f);
  sum = fmaf(sum, square, 2.0f / 5.0f);
  sum = fmaf(sum, square, 2.0f / 3.0f);
  sum = fmaf(sum, square, 2.0f);
  return fmaf(sum, t, x > 0.0f ? x : 0.0f);
}

// x * sigmoid(x).
__device__ inline float Silu(float x) { return x / (1.0f + Exp(-x)); }

// 1 + erf(x / sqrt(2)).
__device__ inline float OnePlusErf(float x) {
  const float t = 1.0f / fmaf(fabsf(x), 0.353553391f, 1.0f);
  float sum = -0.0543247275f;
  sum = fmaf(sum, t, 0.260103673f);
  sum = fmaf(sum, t, -0.432916224f);
  sum = fmaf(sum, t, 0.210310116f);
  sum = fmaf(sum, t, 0.0256483015f);
  sum = fmaf(sum, t, 0.176923603f);
  sum = fmaf(sum, t, 0.251189023f);
  sum = fmaf(sum, t, 0.280821741f);
  sum = fmaf(sum, t, 0.282251924f);
  sum = fmaf(sum, t, -7.4388172e-06f);
  const float erfc = Exp((x * -0.5f) * x) * sum;
  return x < 0.0f ? erfc : 2.0f - erfc;
}

__device__ inline float Gelu(float x) { return (0.5f * x) * OnePlusErf(x); }

__device__ inline float GeluTanh(float x) {
  const float factor = fmaf(x * x, -0.0713548163f, -1.59576912f);
  return x / (1.0f + Exp(x * factor));
}

__device__ inline float Activate(Activation activation, float x) {
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

}  // namespace engram::cuda
