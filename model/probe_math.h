// What the probes of mixers (model/mixer_probe.h) share: nonlinearities and
// norms in double, copies of states, windows of convolutions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/blocks.h"
#include "kernels/status.h"
#include "model/host_products.h"
#include "model/mixer_probe.h"

namespace engram {

inline double Logistic(double value) { return 1 / (1 + std::exp(-value)); }
inline double Silu(double value) { return value * Logistic(value); }
inline double SoftPlus(double value) {
  return value > 20 ? value : std::log1p(std::exp(value));
}
// Of the normal distribution: gelu(x) = x NormalShare(x).
inline double NormalShare(double value) {
  return 0.5 * std::erfc(-value / std::sqrt(2.0));
}
inline double GeluTanh(double value) {
  const double inner =
      std::sqrt(2 / M_PI) * (value + 0.044715 * value * value * value);
  return 0.5 * value * (1 + std::tanh(inner));
}

// Tokens to 1/e of a factor exp(-rate) a token.
inline float MemoryTokens(double rate) {
  return rate > 0 ? static_cast<float>(1 / rate)
                  : std::numeric_limits<float>::infinity();
}

// A copy of a component of a state; zeros if it is nullptr.
inline std::vector<float> CopyOf(const float* component, int64_t floats) {
  if (component == nullptr) return std::vector<float>(floats);
  return std::vector<float>(component, component + floats);
}

// A norm whose weights are in host memory.
struct HostNorm {
  NormKind kind = NormKind::kRms;
  std::vector<float> weight;
  std::vector<float> bias;  // kLayer
  double epsilon = 0;

  static absl::StatusOr<HostNorm> Read(const NormWeights& norm, int64_t width,
                                       const HostProducts& products) {
    HostNorm host;
    host.kind = norm.kind;
    host.epsilon = norm.epsilon;
    ENGRAM_ASSIGN_OR_RETURN(host.weight, products.Read(norm.weight, width));
    ENGRAM_ASSIGN_OR_RETURN(host.bias, products.Read(norm.bias, width));
    return host;
  }

  // What is subtracted from each element: 0 of RMS norms.
  double Mean(const float* x) const {
    if (kind == NormKind::kRms) return 0;
    double sum = 0;
    for (size_t i = 0; i < weight.size(); ++i) sum += x[i];
    return sum / static_cast<double>(weight.size());
  }
  // What the rest is divided by.
  double Scale(const float* x) const { return ScaleAbout(Mean(x), x); }
  double ScaleAbout(double mean, const float* x) const {
    double squares = 0;
    for (size_t i = 0; i < weight.size(); ++i) {
      squares += (x[i] - mean) * (x[i] - mean);
    }
    return std::sqrt(squares / static_cast<double>(weight.size()) + epsilon);
  }
  void Apply(const float* x, float* normed) const {
    const double mean = Mean(x), scale = ScaleAbout(mean, x);
    for (size_t i = 0; i < weight.size(); ++i) {
      normed[i] = static_cast<float>((x[i] - mean) / scale * weight[i] +
                                     (bias.empty() ? 0 : bias[i]));
    }
  }
  // What `share`, a part of a vector whose scale is `scale`, is of its norm.
  void ApplyToShare(const float* share, double scale, float* normed) const {
    const double mean = Mean(share);
    for (size_t i = 0; i < weight.size(); ++i) {
      normed[i] = static_cast<float>((share[i] - mean) / scale * weight[i]);
    }
  }
};

// A causal convolution with its window, the last taps - 1 inputs, oldest first.
class HostConvolution {
 public:
  static absl::StatusOr<HostConvolution> Read(
      const ConvolutionWeights& convolution, int64_t channels,
      const float* window, const HostProducts& products) {
    HostConvolution host;
    host.taps_ = convolution.taps;
    host.channels_ = channels;
    ENGRAM_ASSIGN_OR_RETURN(
        host.weight_,
        products.Read(convolution.weight, convolution.taps * channels));
    ENGRAM_ASSIGN_OR_RETURN(host.bias_,
                            products.Read(convolution.bias, channels));
    host.window_ = CopyOf(window, (convolution.taps - 1) * channels);
    return host;
  }

  // Without an activation, of a token whose input is x [channels].
  void Apply(const float* x, float* y) const {
    for (int64_t channel = 0; channel < channels_; ++channel) {
      double sum = bias_.empty() ? 0 : bias_[channel];
      for (int64_t tap = 0; tap < taps_ - 1; ++tap) {
        const int64_t at = tap * channels_ + channel;
        sum += double{weight_[at]} * window_[at];
      }
      sum += double{weight_[(taps_ - 1) * channels_ + channel]} * x[channel];
      y[channel] = static_cast<float>(sum);
    }
  }
  // Of the sum over the `count` channels from `first` on of weight by output:
  // adds what each input in it has, that of x to by_lag[0] and of the one l
  // before to by_lag[l], and the bias.
  void Divide(const float* x, int64_t first, int64_t count,
              const double* weights, TokenContribution* shares) const {
    shares->by_lag.resize(taps_);
    for (int64_t lag = 0; lag < taps_; ++lag) {
      const int64_t tap = taps_ - 1 - lag;
      const float* const input = lag == 0 ? x : &window_[tap * channels_];
      double sum = 0;
      for (int64_t i = 0; i < count; ++i) {
        sum += weights[i] * weight_[tap * channels_ + first + i] *
               input[first + i];
      }
      shares->by_lag[lag] += sum;
    }
    for (int64_t i = 0; i < count && !bias_.empty(); ++i) {
      shares->bias += weights[i] * bias_[first + i];
    }
  }
  // A tap counts as 0 from now on; 0 is the oldest.
  void CutTap(int64_t tap) {
    std::fill_n(weight_.begin() + tap * channels_, channels_, 0.0f);
  }
  // The window is what it was when something was saved; nullptr: zeros.
  void Restart(const float* window) {
    window_ = CopyOf(window, (taps_ - 1) * channels_);
  }
  // The window goes on by x.
  void Append(const float* x) {
    window_.erase(window_.begin(), window_.begin() + channels_);
    window_.insert(window_.end(), x, x + channels_);
  }

 private:
  int64_t taps_ = 0;
  int64_t channels_ = 0;
  std::vector<float> weight_;  // [taps, channels]
  std::vector<float> bias_;
  std::vector<float> window_;  // [taps - 1, channels]
};

// What is told of rows whose last product is `output`: of all of each, with the
// bias, and of each share without, unless they are in sequence.
//   all     [rows, output.inputs]
//   shares  the same of each state
inline absl::StatusOr<ProbedOutputs> Project(
    const LinearWeights& output, const ProbedRows& fed,
    const std::vector<float>& all,
    const std::vector<std::vector<float>>& shares, HostProducts* products) {
  const int64_t rows = fed.rows;
  const int64_t inputs = output.weight->inputs();
  const int64_t outputs = output.weight->outputs();
  ProbedOutputs projected;
  projected.all.resize(rows * outputs);
  ENGRAM_RETURN_IF_ERROR(products->Multiply(output, rows, all.data(), inputs,
                                            projected.all.data()));
  if (fed.in_sequence) return projected;
  for (const std::vector<float>& share : shares) {
    std::vector<float>& own = projected.shares.emplace_back(rows * outputs);
    ENGRAM_RETURN_IF_ERROR(products->Multiply(
        *output.weight, rows, share.data(), inputs, own.data()));
  }
  return projected;
}

}  // namespace engram
