// The back end's operations as plain loops in double, for expected values.
//
// Written from the mathematics in kernels/backend.h, for reading rather than
// speed: one row at a time, contiguous matrices, no back end.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"

namespace engram::reference {

using Values = std::vector<double>;

double Silu(double x);
double Softplus(double x);
double Gelu(double x);
double GeluTanh(double x);
double Activate(Activation activation, double x);

// Returns normed [tokens, d_model]. `bias` may be empty for kRms.
Values Norm(NormKind kind, double epsilon, int64_t d_model,
            const Values& residual, const Values& weight, const Values& bias);

// Returns activation(x Wᵀ + bias) [tokens, outputs]. `bias` may be empty.
//   weight  [outputs, inputs]
//   x       [tokens, inputs]
Values MatMul(int64_t outputs, int64_t inputs, const Values& weight,
              const Values& x, const Values& bias = {},
              Activation activation = Activation::kNone);

// Returns y [tokens, channels] of one row. `bias` may be empty.
//   x       [tokens, channels]
//   weight  [d_conv, channels]
//   window  [d_conv-1, channels] in and out, oldest first
Values CausalConv1d(int64_t channels, int64_t d_conv, const Values& x,
                    const Values& weight, const Values& bias,
                    Activation activation, Values& window);

struct ScanInputs {
  int64_t d_inner = 0;
  int64_t d_state = 0;
  Values x, dt, z;    // [tokens, d_inner]
  Values b, c;        // [tokens, d_state]
  Values dt_bias, d;  // [d_inner]
  Values a;           // [d_state, d_inner]
};

// Returns y [tokens, d_inner] of one row.
//   state  [d_state, d_inner] in and out
Values SelectiveScan(const ScanInputs& inputs, Values& state);

struct SsdScanInputs {
  int64_t heads = 0;
  int64_t groups = 0;
  int64_t head_dim = 0;
  int64_t d_state = 0;
  double dt_min = 0;
  double dt_max = 0;
  Values x;              // [tokens, heads, head_dim]
  Values dt;             // [tokens, heads]
  Values b, c;           // [tokens, groups, d_state]
  Values dt_bias, a, d;  // [heads]
};

// Returns y [tokens, heads, head_dim] of one row.
//   state  [heads, d_state, head_dim] in and out
Values SsdScan(const SsdScanInputs& inputs, Values& state);

// Returns normed [tokens, d_inner]. `weight` [d_inner] may be empty: no norm.
Values GatedNorm(int64_t d_inner, int64_t groups, double epsilon,
                 const Values& y, const Values& z, const Values& weight);

// Returns p [tokens, channels] of one row.
//   k, v    [tokens, channels]
//   filter  [taps, channels]
//   state   [taps-1, channels] in and out, oldest first
Values ShiftMultiply(int64_t channels, int64_t taps, const Values& k,
                     const Values& v, const Values& filter, Values& state);

struct DiagonalScanInputs {
  int64_t channels = 0;
  int64_t pairs = 0;
  Activation activation = Activation::kNone;
  Values p;            // [tokens, channels]
  Values gate;         // [tokens, channels], or empty
  Values decay, read;  // [pairs, 2, channels]
  Values d;            // [channels]
};

// Returns y [tokens, channels] of one row.
//   state  [pairs, 2, channels] in and out
Values DiagonalScan(const DiagonalScanInputs& inputs, Values& state);

// Rotates dimensions i and i + frequencies.size() of each head of x [tokens,
// heads, head_dim], whose first token is at `position`, by the angle position
// frequencies[i].
void RotateByPosition(int64_t heads, int64_t head_dim,
                      const Values& frequencies, int64_t position, Values& x);

// Returns y [tokens, heads, head_dim] of one row's last tokens, as many as q
// has; keys and values are those of the whole sequence, q and k are rotated
// already. Head h of q looks at head h kv_heads / heads of k and v.
//   q     [tokens, heads, head_dim]
//   k, v  [all tokens, kv_heads, head_dim]
Values Attention(int64_t heads, int64_t kv_heads, int64_t head_dim,
                 double scale, const Values& q, const Values& k,
                 const Values& v);

}  // namespace engram::reference
