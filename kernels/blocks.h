// Blocks: what a layer adds to the residual, as one operation of a back end. A
// block is a norm, a mixer of tokens or an MLP, and the sum:
//   residual += mixer(Norm(residual))
// Here are the arguments of each: weights, dimensions and the layer's shares of
// the states, all of which stay the same from loading on.
//
// A block gives bit for bit what its operations (kernels/backend.h) give one
// after the other, in the order in which they are listed below. That is what a
// back end does which has nothing better (kernels/blocks.cc); one that computes
// several of them at once rounds where each of them stores its result, and sums
// in their order. tests/kernels/blocks_test.cc holds it to that.
//
// Names of matrices stand for the columns that they have in what is projected.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/operations.h"

namespace engram {

// A matrix [outputs, inputs] with its bias [outputs], which may be nullptr.
struct LinearWeights {
  const PackedWeight* weight = nullptr;
  const float* bias = nullptr;
};

struct ConvolutionWeights {
  int64_t taps = 0;
  const float* weight = nullptr;  // [taps, channels]
  const float* bias = nullptr;    // [channels], or nullptr
};

struct DiagonalSsmWeights {
  int64_t pairs = 0;             // complex states per channel
  const float* decay = nullptr;  // [pairs, 2, channels]
  const float* read = nullptr;   // [pairs, 2, channels]
  const float* d = nullptr;      // [channels]
};

// Norm; x | z = in_proj; CausalConv1d of x with SiLU; dt | b | c = x_proj;
// dt = dt_proj dt; SelectiveScan with the gate z; residual += out_proj.
// Source: Mamba, arXiv 2312.00752, section 3.4.
struct MambaBlockArguments {
  int64_t d_inner = 0;
  int64_t d_state = 0;
  int64_t dt_rank = 0;
  NormWeights norm;
  LinearWeights in_proj;           // [2 d_inner, d_model]
  ConvolutionWeights convolution;  // of d_inner channels
  LinearWeights x_proj;            // [dt_rank + 2 d_state, d_inner]
  LinearWeights dt_proj;           // [d_inner, dt_rank]
  const float* dt_bias = nullptr;  // [d_inner], the scan's
  const float* a = nullptr;        // [d_state, d_inner]
  const float* d = nullptr;        // [d_inner]
  LinearWeights out_proj;          // [d_model, d_inner]
  LayerShares conv_state;          // [taps-1, d_inner] of each slot
  LayerShares ssm_state;           // [d_state, d_inner]

  int64_t d_model() const { return in_proj.weight->inputs(); }
  int64_t scan_inputs() const { return dt_rank + 2 * d_state; }
  // Of a token, see Backend::ReserveSteps; so are those below.
  int64_t ScratchFloats() const;
};

// Norm; z | x | b | c | dt = in_proj; CausalConv1d of x, b and c with SiLU;
// SsdScan; GatedNorm with z; residual += out_proj.
// Source: Mamba-2, arXiv 2405.21060, section 7.
struct Mamba2BlockArguments {
  int64_t heads = 0;
  int64_t groups = 0;
  int64_t head_dim = 0;
  int64_t d_state = 0;
  float dt_min = 0;
  float dt_max = std::numeric_limits<float>::infinity();
  NormWeights norm;
  LinearWeights in_proj;           // [projected, d_model]
  ConvolutionWeights convolution;  // of the channels of x, b and c
  const float* dt_bias = nullptr;  // [heads]
  const float* a = nullptr;        // [heads]
  const float* d = nullptr;        // [heads]
  // [d_inner]; nullptr: the gate without a norm
  const float* gated_norm = nullptr;
  float gated_norm_epsilon = 1e-5f;
  LinearWeights out_proj;  // [d_model, d_inner]
  LayerShares conv_state;  // [taps-1, convolved] of each slot
  LayerShares ssm_state;   // [heads, d_state, head_dim]

  int64_t d_model() const { return in_proj.weight->inputs(); }
  int64_t d_inner() const { return heads * head_dim; }
  // b of all groups, or c.
  int64_t group_states() const { return groups * d_state; }
  // x, b and c side by side.
  int64_t convolved() const { return d_inner() + 2 * group_states(); }
  // z, x, b, c and dt side by side.
  int64_t projected() const { return d_inner() + convolved() + heads; }
  int64_t ScratchFloats() const;
  // What is normed, and then the scan's room.
  int64_t normed_floats() const;
};

// Norm; q, k and v by a product each; ShiftMultiply of k and v; DiagonalScan
// with the gate q; residual += output.
// Source: H3, arXiv 2212.14052, section 3.1.
struct H3BlockArguments {
  NormWeights norm;
  LinearWeights q_proj;  // [d_model, d_model], as the others
  LinearWeights k_proj;
  LinearWeights v_proj;
  int64_t taps = 0;
  const float* filter = nullptr;  // [taps, d_model]
  DiagonalSsmWeights ssm;         // of d_model channels
  LinearWeights output;
  LayerShares shift_state;     // [taps-1, d_model] of each slot, a ring
  LayerShares diagonal_state;  // [pairs, 2, d_model]

  int64_t d_model() const { return q_proj.weight->inputs(); }
  int64_t ScratchFloats() const;
};

// Norm; DiagonalScan with GELU; residual += output.
// Source: S4D, arXiv 2206.11893, section 4.
struct S4dBlockArguments {
  NormWeights norm;
  DiagonalSsmWeights ssm;      // of d_model channels
  LinearWeights output;        // [d_model, d_model]
  LayerShares diagonal_state;  // [pairs, 2, d_model] of each slot

  int64_t d_model() const { return output.weight->inputs(); }
  int64_t ScratchFloats() const;
};

// Norm; q | k | v = qkv; with a convolution CausalConv1d of all of them,
// without an activation; Attention; residual += output.
struct AttentionBlockArguments {
  int64_t heads = 0;
  int64_t kv_heads = 0;  // divides heads
  int64_t head_dim = 0;
  float scale = 0;
  int64_t rotary_dim = 0;
  const double* frequencies = nullptr;  // [rotary_dim / 2]
  NormWeights norm;
  LinearWeights qkv;               // [(heads + 2 kv_heads) head_dim, d_model]
  ConvolutionWeights convolution;  // of q, k and v; taps 0: none
  LinearWeights output;            // [d_model, heads head_dim]
  LayerShares conv_state;          // [taps-1, qkv_width] of each slot
  LayerShares blocks;              // as AttentionArguments::blocks

  int64_t d_model() const { return qkv.weight->inputs(); }
  int64_t q_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
  int64_t qkv_width() const { return q_width() + 2 * kv_width(); }
  int64_t ScratchFloats() const;
};

// Norm; then residual += fc2 of
//   gated  u ⊙ silu(g), where u | g = fc1 (GatedNorm without weights)
//   else   gelu_tanh(fc1)
struct MlpBlockArguments {
  bool gated = false;
  NormWeights norm;
  LinearWeights fc1;  // [width, d_model], [2 width, d_model] if gated
  LinearWeights fc2;  // [d_model, width]

  int64_t d_model() const { return fc1.weight->inputs(); }
  int64_t width() const { return fc2.weight->inputs(); }
  int64_t ScratchFloats() const;
};

}  // namespace engram
