// What products can do besides, in their own kernels: make their inputs of
// others, and convolve what they give.
#pragma once

#include <cstdint>

#include "kernels/cuda/step_table.h"
#include "kernels/operations.h"

namespace engram::cuda {

// CausalConv1d of columns of y, which are replaced. REQUIRES of the step that
// rows have one token each.
struct ProductConvolution {
  StepTable step;
  int64_t first = 0;     // column
  int64_t channels = 0;  // 0: nothing is convolved
  int64_t taps = 0;
  const float* weight = nullptr;  // [taps, channels]
  const float* bias = nullptr;    // [channels], or nullptr
  Activation activation = Activation::kNone;
  LayerShares state;  // [taps-1, channels] of each slot
  // Whether two neighbouring columns, the first an even one, are both convolved
  // or none is, and what that takes can be loaded at once.
  bool by_pairs = false;
};

// A norm of tokens, or a gate, or both: each of `groups` equal parts of
//   v = x, or x ⊙ silu(z)
// is normed as Backend::Norm or Backend::GatedNorm say.
struct RowNorm {
  ConstMatrix x;  // [tokens, groups width]
  ConstMatrix z;  // the same; data nullptr: no gate
  int64_t groups = 1;
  int64_t width = 0;  // of a group
  NormKind kind = NormKind::kRms;
  const float* weight = nullptr;  // [groups width]; nullptr: v itself
  const float* bias = nullptr;    // the same, kLayer only
  float epsilon = 0;
  // Whether four values at a multiple of four of a group can be loaded at once.
  bool aligned = false;
};

RowNorm RowNormOf(const NormWeights& norm, int64_t d_model,
                  const float* residual);
RowNorm RowNormOf(const GatedNormArguments& arguments);

}  // namespace engram::cuda
