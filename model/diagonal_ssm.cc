#include "model/diagonal_ssm.h"

#include <cmath>
#include <complex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

using Complex = std::complex<double>;

constexpr int64_t kPairsMax = 4096;

// The parameters as they are stored.
struct Parameters {
  std::vector<float> log_dt;      // [channels]
  std::vector<float> inv_a_real;  // [channels or 1, pairs]
  std::vector<float> a_imag;      // [channels or 1, pairs]
  std::vector<float> b;           // [channels, pairs, 2] or empty
  std::vector<float> c;           // [1, channels, pairs, 2]
};

Complex ComplexAt(const std::vector<float>& values, int64_t index) {
  return {values[2 * index], values[2 * index + 1]};
}

absl::StatusOr<Parameters> ReadParameters(const std::string& kernel,
                                          const DiagonalSsmLayout& layout,
                                          WeightLoader* loader) {
  const auto& [channels, pairs, a_per_channel, has_b, zero_order_hold] = layout;
  const int64_t a_rows = a_per_channel ? channels : 1;
  Parameters parameters;
  ENGRAM_ASSIGN_OR_RETURN(parameters.log_dt,
                          loader->Values(kernel + "log_dt", {channels}));
  ENGRAM_ASSIGN_OR_RETURN(
      parameters.inv_a_real,
      loader->Values(kernel + "inv_A_real", {a_rows, pairs}));
  ENGRAM_ASSIGN_OR_RETURN(parameters.a_imag,
                          loader->Values(kernel + "A_imag", {a_rows, pairs}));
  ENGRAM_ASSIGN_OR_RETURN(
      parameters.c, loader->Values(kernel + "C", {1, channels, pairs, 2}));
  if (has_b) {
    ENGRAM_ASSIGN_OR_RETURN(parameters.b,
                            loader->Values(kernel + "B", {channels, pairs, 2}));
  }
  return parameters;
}

}  // namespace

absl::StatusOr<int64_t> DiagonalSsmPairs(const std::string& mixer,
                                         const WeightLoader& loader) {
  const std::string name = mixer + "kernel.kernel.C";
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> shape,
                          loader.Shape(name, 4));
  if (shape[2] <= kPairsMax) return shape[2];
  return absl::DataLossError(
      absl::StrCat(loader.folder(), ": tensor ", name, " has ", shape[2],
                   " pairs of states per channel, limit ", kPairsMax));
}

absl::StatusOr<DiagonalSsm> LoadDiagonalSsm(const std::string& mixer,
                                            const DiagonalSsmLayout& layout,
                                            WeightLoader* loader) {
  const int64_t channels = layout.channels;
  const int64_t pairs = layout.pairs;
  DiagonalSsm ssm;
  ENGRAM_ASSIGN_OR_RETURN(
      const Parameters parameters,
      ReadParameters(mixer + "kernel.kernel.", layout, loader));
  std::vector<float> decays(pairs * 2 * channels);
  std::vector<float> reads(pairs * 2 * channels);
  for (int64_t channel = 0; channel < channels; ++channel) {
    const double dt = std::exp(double{parameters.log_dt[channel]});
    for (int64_t n = 0; n < pairs; ++n) {
      const int64_t at = channel * pairs + n;
      const int64_t a_at = layout.a_per_channel ? at : n;
      const Complex a(-std::exp(double{parameters.inv_a_real[a_at]}),
                      parameters.a_imag[a_at]);
      const Complex z = a * dt;
      const Complex decay = layout.zero_order_hold
                                ? std::exp(z)
                                : (1.0 + z / 2.0) / (1.0 - z / 2.0);
      const Complex step =
          layout.zero_order_hold ? (decay - 1.0) / a : dt / (1.0 - z / 2.0);
      const Complex b = layout.has_b ? ComplexAt(parameters.b, at) : 1.0;
      const Complex read = 2.0 * ComplexAt(parameters.c, at) * b * step;
      const int64_t real = 2 * n * channels + channel;
      const int64_t imaginary = real + channels;
      decays[real] = static_cast<float>(decay.real());
      decays[imaginary] = static_cast<float>(decay.imag());
      reads[real] = static_cast<float>(read.real());
      reads[imaginary] = static_cast<float>(read.imag());
    }
  }
  ENGRAM_ASSIGN_OR_RETURN(ssm.decay, loader->Upload(decays));
  ENGRAM_ASSIGN_OR_RETURN(ssm.read, loader->Upload(reads));
  ENGRAM_ASSIGN_OR_RETURN(ssm.d, loader->Vector(mixer + "D", {channels}));
  return ssm;
}

}  // namespace engram
