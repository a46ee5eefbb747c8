// The probes of H3 and S4D.
#include <complex>
#include <utility>

#include "model/mixer_probe.h"
#include "model/probe_math.h"

namespace engram {
namespace {

// The diagonal SSM of a layer, with its state.
class HostDiagonalSsm {
 public:
  absl::Status Read(const DiagonalSsmWeights& ssm, int64_t channels,
                    const float* state, const HostProducts& products) {
    pairs_ = ssm.pairs;
    channels_ = channels;
    const int64_t floats = 2 * pairs_ * channels;
    ENGRAM_ASSIGN_OR_RETURN(decay_, products.Read(ssm.decay, floats));
    ENGRAM_ASSIGN_OR_RETURN(read_, products.Read(ssm.read, floats));
    ENGRAM_ASSIGN_OR_RETURN(d_, products.Read(ssm.d, channels));
    state_ = CopyOf(state, floats);
    return absl::OkStatus();
  }

  // What the state alone gives a channel at the next token.
  double Remembered(int64_t channel) const {
    double sum = 0;
    for (int64_t n = 0; n < pairs_; ++n) {
      sum += (At(read_, n, channel) * At(decay_, n, channel) *
              At(state_, n, channel))
                 .real();
    }
    return sum;
  }
  // What an input gives at its own token, for each unit of it.
  double Direct(int64_t channel) const {
    double sum = d_[channel];
    for (int64_t n = 0; n < pairs_; ++n) sum += At(read_, n, channel).real();
    return sum;
  }
  void MoveOn(int64_t channel, double p) {
    for (int64_t n = 0; n < pairs_; ++n) {
      const std::complex<double> moved =
          At(decay_, n, channel) * At(state_, n, channel) + p;
      state_[2 * n * channels_ + channel] = static_cast<float>(moved.real());
      state_[(2 * n + 1) * channels_ + channel] =
          static_cast<float>(moved.imag());
    }
  }
  std::vector<float> MemoryOfAll() const {
    std::vector<float> tokens;
    for (int64_t n = 0; n < pairs_; ++n) {
      for (int64_t channel = 0; channel < channels_; ++channel) {
        tokens.push_back(
            MemoryTokens(-std::log(std::abs(At(decay_, n, channel)))));
      }
    }
    return tokens;
  }

 private:
  std::complex<double> At(const std::vector<float>& values, int64_t n,
                          int64_t channel) const {
    return {values[2 * n * channels_ + channel],
            values[(2 * n + 1) * channels_ + channel]};
  }

  int64_t pairs_ = 0;
  int64_t channels_ = 0;
  std::vector<float> decay_, read_, state_;  // [pairs, 2, channels]
  std::vector<float> d_;
};

class H3Probe final : public MixerProbe {
 public:
  H3Probe(const H3BlockArguments& block, HostProducts* products)
      : block_(block), products_(*products) {}

  absl::Status Read(const SavedLayer& saved) {
    const int64_t d_model = block_.d_model();
    position_ = saved.position;
    ENGRAM_ASSIGN_OR_RETURN(
        filter_, products_.Read(block_.filter, block_.taps * d_model));
    window_ = CopyOf(saved.components[0], (block_.taps - 1) * d_model);
    return ssm_.Read(block_.ssm, d_model, saved.components[1], products_);
  }

  std::vector<const char*> shares() const override {
    return {"shift_state", "diagonal_state"};
  }

  absl::StatusOr<ProbedOutputs> Feed(const ProbedRows& rows) override {
    const int64_t d_model = block_.d_model(), floats = rows.rows * d_model;
    std::vector<float> q(floats), k(floats), v(floats);
    for (const auto& [linear, y] :
         {std::pair(&block_.q_proj, &q), std::pair(&block_.k_proj, &k),
          std::pair(&block_.v_proj, &v)}) {
      ENGRAM_RETURN_IF_ERROR(products_.Multiply(*linear, rows.rows, rows.normed,
                                                d_model, y->data()));
    }
    std::vector<float> all(floats), shift(floats), diagonal(floats);
    for (int64_t row = 0; row < rows.rows; ++row) {
      for (int64_t channel = 0; channel < d_model; ++channel) {
        const int64_t at = row * d_model + channel;
        const double newest =
            double{filter_[(block_.taps - 1) * d_model + channel]} * k[at];
        const double before = Shifted(channel);
        const double direct = ssm_.Direct(channel) * v[at] * q[at];
        const double remembered = ssm_.Remembered(channel) * q[at];
        shift[at] = static_cast<float>(direct * before);
        diagonal[at] = static_cast<float>(remembered);
        all[at] = static_cast<float>(direct * (before + newest) + remembered);
        if (rows.in_sequence) {
          ssm_.MoveOn(channel, (before + newest) * v[at]);
        }
      }
      if (rows.in_sequence) MoveOn(&k[row * d_model]);
    }
    ENGRAM_ASSIGN_OR_RETURN(
        ProbedOutputs outputs,
        Project(block_.output, rows.rows, all,
                {std::move(shift), std::move(diagonal)}, &products_));
    outputs.memory_tokens = ssm_.MemoryOfAll();
    return outputs;
  }

 private:
  // The filter's sum over the tokens before the next one, which lie in a ring.
  double Shifted(int64_t channel) const {
    const int64_t d_model = block_.d_model(), places = block_.taps - 1;
    double sum = 0;
    for (int64_t back = 1; back <= places; ++back) {
      const int64_t place = ((position_ - back) % places + places) % places;
      sum += double{filter_[(places - back) * d_model + channel]} *
             window_[place * d_model + channel];
    }
    return sum;
  }
  void MoveOn(const float* k) {
    if (block_.taps > 1) {
      const int64_t place = position_ % (block_.taps - 1);
      std::copy(k, k + block_.d_model(),
                window_.begin() + place * block_.d_model());
    }
    ++position_;
  }

  const H3BlockArguments block_;
  HostProducts& products_;
  int64_t position_ = 0;
  std::vector<float> filter_;  // [taps, d_model]
  std::vector<float> window_;  // [taps - 1, d_model]
  HostDiagonalSsm ssm_;
};

class S4dProbe final : public MixerProbe {
 public:
  S4dProbe(const S4dBlockArguments& block, HostProducts* products)
      : block_(block), products_(*products) {}

  absl::Status Read(const SavedLayer& saved) {
    return ssm_.Read(block_.ssm, block_.d_model(), saved.components[0],
                     products_);
  }

  std::vector<const char*> shares() const override {
    return {"diagonal_state"};
  }

  absl::StatusOr<ProbedOutputs> Feed(const ProbedRows& rows) override {
    const int64_t d_model = block_.d_model(), floats = rows.rows * d_model;
    std::vector<float> all(floats), remembered(floats);
    for (int64_t row = 0; row < rows.rows; ++row) {
      for (int64_t channel = 0; channel < d_model; ++channel) {
        const int64_t at = row * d_model + channel;
        const double before = ssm_.Remembered(channel);
        const double y = before + ssm_.Direct(channel) * rows.normed[at];
        const double share = NormalShare(y);
        remembered[at] = static_cast<float>(before * share);
        all[at] = static_cast<float>(y * share);
        if (rows.in_sequence) ssm_.MoveOn(channel, rows.normed[at]);
      }
    }
    ENGRAM_ASSIGN_OR_RETURN(ProbedOutputs outputs,
                            Project(block_.output, rows.rows, all,
                                    {std::move(remembered)}, &products_));
    outputs.memory_tokens = ssm_.MemoryOfAll();
    return outputs;
  }

 private:
  const S4dBlockArguments block_;
  HostProducts& products_;
  HostDiagonalSsm ssm_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MixerProbe>> ProbeH3(
    const H3BlockArguments& block, const SavedLayer& saved,
    HostProducts* products) {
  auto probe = std::make_unique<H3Probe>(block, products);
  ENGRAM_RETURN_IF_ERROR(probe->Read(saved));
  return probe;
}

absl::StatusOr<std::unique_ptr<MixerProbe>> ProbeS4d(
    const S4dBlockArguments& block, const SavedLayer& saved,
    HostProducts* products) {
  auto probe = std::make_unique<S4dProbe>(block, products);
  ENGRAM_RETURN_IF_ERROR(probe->Read(saved));
  return probe;
}

}  // namespace engram
