#include "tests/support/reference_ops.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>

namespace engram::reference {
namespace {

// [tokens, width] contiguous.
int64_t Tokens(const Values& values, int64_t width) {
  return static_cast<int64_t>(values.size()) / width;
}

}  // namespace

double Silu(double x) { return x / (1.0 + std::exp(-x)); }

double Softplus(double x) { return x > 20.0 ? x : std::log1p(std::exp(x)); }

double Gelu(double x) { return x * std::erfc(-x / std::numbers::sqrt2) / 2.0; }

double GeluTanh(double x) {
  const double w =
      std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x);
  return x * (1.0 + std::tanh(w)) / 2.0;
}

double Activate(Activation activation, double x) {
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

Values Norm(NormKind kind, double epsilon, int64_t d_model,
            const Values& residual, const Values& weight, const Values& bias) {
  Values normed(residual.size());
  for (int64_t t = 0; t < Tokens(residual, d_model); ++t) {
    const double* const in = residual.data() + t * d_model;
    double mean = 0.0;
    if (kind == NormKind::kLayer) {
      for (int64_t i = 0; i < d_model; ++i) mean += in[i] / d_model;
    }
    double variance = 0.0;
    for (int64_t i = 0; i < d_model; ++i) {
      variance += (in[i] - mean) * (in[i] - mean) / d_model;
    }
    for (int64_t i = 0; i < d_model; ++i) {
      double value = (in[i] - mean) / std::sqrt(variance + epsilon) * weight[i];
      if (kind == NormKind::kLayer) value += bias[i];
      normed[t * d_model + i] = value;
    }
  }
  return normed;
}

Values MatMul(int64_t outputs, int64_t inputs, const Values& weight,
              const Values& x, const Values& bias, Activation activation) {
  const int64_t tokens = Tokens(x, inputs);
  Values y(tokens * outputs);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = bias.empty() ? 0.0 : bias[o];
      for (int64_t k = 0; k < inputs; ++k) {
        sum += weight[o * inputs + k] * x[t * inputs + k];
      }
      y[t * outputs + o] = Activate(activation, sum);
    }
  }
  return y;
}

Values CausalConv1d(int64_t channels, int64_t d_conv, const Values& x,
                    const Values& weight, const Values& bias,
                    Activation activation, Values& window) {
  // The window and the row on one time axis.
  Values inputs = window;
  inputs.insert(inputs.end(), x.begin(), x.end());
  Values y(x.size());
  for (int64_t t = 0; t < Tokens(x, channels); ++t) {
    for (int64_t e = 0; e < channels; ++e) {
      double sum = bias.empty() ? 0.0 : bias[e];
      for (int64_t j = 0; j < d_conv; ++j) {
        sum += weight[j * channels + e] * inputs[(t + j) * channels + e];
      }
      y[t * channels + e] = Activate(activation, sum);
    }
  }
  window.assign(inputs.end() - static_cast<int64_t>(window.size()),
                inputs.end());
  return y;
}

Values SelectiveScan(const ScanInputs& in, Values& state) {
  Values y(in.x.size());
  for (int64_t t = 0; t < Tokens(in.x, in.d_inner); ++t) {
    for (int64_t e = 0; e < in.d_inner; ++e) {
      const int64_t te = t * in.d_inner + e;
      const double delta = Softplus(in.dt[te] + in.dt_bias[e]);
      double sum = 0.0;
      for (int64_t n = 0; n < in.d_state; ++n) {
        double& h = state[n * in.d_inner + e];
        h = std::exp(delta * in.a[n * in.d_inner + e]) * h +
            delta * in.b[t * in.d_state + n] * in.x[te];
        sum += in.c[t * in.d_state + n] * h;
      }
      y[te] = (sum + in.d[e] * in.x[te]) * Silu(in.z[te]);
    }
  }
  return y;
}

Values SsdScan(const SsdScanInputs& in, Values& state) {
  Values y(in.x.size());
  const int64_t tokens = Tokens(in.dt, in.heads);
  for (int64_t th = 0; th < tokens * in.heads; ++th) {
    const int64_t t = th / in.heads;
    const int64_t h = th % in.heads;
    const int64_t group = h / (in.heads / in.groups);
    const double* const b = &in.b[(t * in.groups + group) * in.d_state];
    const double* const c = &in.c[(t * in.groups + group) * in.d_state];
    const double delta =
        std::clamp(Softplus(in.dt[th] + in.dt_bias[h]), in.dt_min, in.dt_max);
    for (int64_t p = 0; p < in.head_dim; ++p) {
      const double x = in.x[th * in.head_dim + p];
      double sum = 0.0;
      for (int64_t n = 0; n < in.d_state; ++n) {
        double& s = state[(h * in.d_state + n) * in.head_dim + p];
        s = std::exp(delta * in.a[h]) * s + delta * x * b[n];
        sum += s * c[n];
      }
      y[th * in.head_dim + p] = sum + in.d[h] * x;
    }
  }
  return y;
}

Values GatedNorm(int64_t d_inner, int64_t groups, double epsilon,
                 const Values& y, const Values& z, const Values& weight) {
  Values gated(y.size());
  for (size_t i = 0; i < y.size(); ++i) gated[i] = y[i] * Silu(z[i]);
  if (weight.empty()) return gated;
  const int64_t width = d_inner / groups;
  Values normed(y.size());
  for (int64_t t = 0; t < Tokens(y, d_inner); ++t) {
    for (int64_t i = 0; i < d_inner; ++i) {
      const double* const group = &gated[t * d_inner + i / width * width];
      double mean = 0.0;
      for (int64_t k = 0; k < width; ++k) mean += group[k] * group[k] / width;
      normed[t * d_inner + i] =
          gated[t * d_inner + i] / std::sqrt(mean + epsilon) * weight[i];
    }
  }
  return normed;
}

Values ShiftMultiply(int64_t channels, int64_t taps, const Values& k,
                     const Values& v, const Values& filter, Values& state) {
  // The state and the row on one time axis.
  Values inputs = state;
  inputs.insert(inputs.end(), k.begin(), k.end());
  Values p(k.size());
  for (int64_t t = 0; t < Tokens(k, channels); ++t) {
    for (int64_t e = 0; e < channels; ++e) {
      double sum = 0.0;
      for (int64_t j = 0; j < taps; ++j) {
        sum += filter[j * channels + e] * inputs[(t + j) * channels + e];
      }
      p[t * channels + e] = sum * v[t * channels + e];
    }
  }
  state.assign(inputs.end() - static_cast<int64_t>(state.size()), inputs.end());
  return p;
}

Values DiagonalScan(const DiagonalScanInputs& in, Values& state) {
  Values y(in.p.size());
  for (int64_t t = 0; t < Tokens(in.p, in.channels); ++t) {
    for (int64_t e = 0; e < in.channels; ++e) {
      const int64_t te = t * in.channels + e;
      double sum = in.d[e] * in.p[te];
      for (int64_t n = 0; n < in.pairs; ++n) {
        const int64_t real = n * 2 * in.channels + e;
        const int64_t imaginary = real + in.channels;
        const auto at = [&](const Values& values) {
          return std::complex<double>(values[real], values[imaginary]);
        };
        const std::complex<double> h = at(in.decay) * at(state) + in.p[te];
        state[real] = h.real();
        state[imaginary] = h.imag();
        sum += (at(in.read) * h).real();
      }
      y[te] = Activate(in.activation, sum);
      if (!in.gate.empty()) y[te] *= in.gate[te];
    }
  }
  return y;
}

void RotateByPosition(int64_t heads, int64_t head_dim,
                      const Values& frequencies, int64_t position, Values& x) {
  const auto half = static_cast<int64_t>(frequencies.size());
  for (int64_t t = 0; t < Tokens(x, heads * head_dim); ++t) {
    for (int64_t head = 0; head < heads; ++head) {
      double* const part = &x[(t * heads + head) * head_dim];
      for (int64_t i = 0; i < half; ++i) {
        const std::complex<double> rotated =
            std::complex<double>(part[i], part[i + half]) *
            std::polar(1.0, (position + t) * frequencies[i]);
        part[i] = rotated.real();
        part[i + half] = rotated.imag();
      }
    }
  }
}

Values Attention(int64_t heads, int64_t kv_heads, int64_t head_dim,
                 double scale, const Values& q, const Values& k,
                 const Values& v) {
  Values y(q.size());
  const int64_t tokens = Tokens(q, heads * head_dim);
  const int64_t before = Tokens(k, kv_heads * head_dim) - tokens;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t head = 0; head < heads; ++head) {
      const double* const query = &q[(t * heads + head) * head_dim];
      const int64_t kv_head = head * kv_heads / heads;
      Values weights;
      double maximum = -HUGE_VAL;
      for (int64_t s = 0; s <= before + t; ++s) {
        double score = 0.0;
        for (int64_t i = 0; i < head_dim; ++i) {
          score += query[i] * k[(s * kv_heads + kv_head) * head_dim + i];
        }
        weights.push_back(score * scale);
        maximum = std::max(maximum, weights.back());
      }
      double total = 0.0;
      for (double& weight : weights)
        total += weight = std::exp(weight - maximum);
      for (int64_t i = 0; i < head_dim; ++i) {
        double sum = 0.0;
        for (int64_t s = 0; s <= before + t; ++s) {
          sum += weights[s] * v[(s * kv_heads + kv_head) * head_dim + i];
        }
        y[(t * heads + head) * head_dim + i] = sum / total;
      }
    }
  }
  return y;
}

}  // namespace engram::reference
