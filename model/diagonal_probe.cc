// The probes of H3 and S4D.
#include <algorithm>
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
    for (int64_t n = 0; n < pairs_; ++n) {
      for (int64_t channel = 0; channel < channels; ++channel) {
        log_decay_.push_back(std::log(At(decay_, n, channel)));
      }
    }
    Restart(state);
    return absl::OkStatus();
  }
  // The state is what it was when something was saved; nullptr: zeros.
  void Restart(const float* state) {
    state_ = CopyOf(state, 2 * pairs_ * channels_);
  }

  // What the state alone gives a channel at the next token.
  double Remembered(int64_t channel) const {
    return SumRead(channel, [&](int64_t n) {
      return At(decay_, n, channel) * At(state_, n, channel);
    });
  }
  // What the state gives a channel `lag` tokens later, without what is fed in
  // between.
  double RememberedAfter(int64_t lag, int64_t channel) const {
    return SumRead(channel, [&](int64_t n) {
      return Decay(lag, n, channel) * At(state_, n, channel);
    });
  }
  // What an input gives `lag` tokens later, without D, for each unit of it.
  double Kernel(int64_t lag, int64_t channel) const {
    return SumRead(channel, [&](int64_t n) { return Decay(lag, n, channel); });
  }
  // What an input gives at its own token, for each unit of it.
  double Direct(int64_t channel) const {
    return d_[channel] +
           SumRead(channel, [](int64_t) { return std::complex<double>(1); });
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
            MemoryTokens(-log_decay_[n * channels_ + channel].real()));
      }
    }
    return tokens;
  }

 private:
  // What the channel reads of one value for each of its pairs.
  template <typename Value>
  double SumRead(int64_t channel, const Value& value) const {
    double sum = 0;
    for (int64_t n = 0; n < pairs_; ++n) {
      sum += (At(read_, n, channel) * value(n)).real();
    }
    return sum;
  }
  std::complex<double> Decay(int64_t lag, int64_t n, int64_t channel) const {
    return std::exp(static_cast<double>(lag) *
                    log_decay_[n * channels_ + channel]);
  }
  std::complex<double> At(const std::vector<float>& values, int64_t n,
                          int64_t channel) const {
    return {values[2 * n * channels_ + channel],
            values[(2 * n + 1) * channels_ + channel]};
  }

  int64_t pairs_ = 0;
  int64_t channels_ = 0;
  std::vector<float> decay_, read_, state_;      // [pairs, 2, channels]
  std::vector<std::complex<double>> log_decay_;  // [pairs, channels]
  std::vector<float> d_;
};

// What a row leaves in a channel of the state, of what it would write itself.
double Left(const ProbedRows& rows, int64_t row, double own,
            const std::vector<double>& kept, int64_t channel) {
  const StateWrite write =
      rows.writes == nullptr ? StateWrite::kOwn : rows.writes[row];
  if (write == StateWrite::kOwn) return own;
  return write == StateWrite::kKept ? kept[channel] : 0;
}

class H3Probe final : public MixerProbe {
 public:
  H3Probe(const H3BlockArguments& block, HostProducts* products)
      : block_(block), products_(*products) {}

  absl::Status Read(const SavedLayer& saved) {
    const int64_t d_model = block_.d_model();
    saved_ = saved;
    ENGRAM_ASSIGN_OR_RETURN(
        filter_, products_.Read(block_.filter, block_.taps * d_model));
    ENGRAM_RETURN_IF_ERROR(
        ssm_.Read(block_.ssm, d_model, saved.components[1], products_));
    Restart();
    return absl::OkStatus();
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
    if (rows.keeps_write) kept_.resize(d_model);
    std::vector<std::vector<TokenContribution>> contributions;
    for (int64_t row = 0; row < rows.rows; ++row) {
      if (rows.in_sequence && !direction_.empty()) {
        contributions.resize(2);
        contributions[0].push_back(ShiftContribution(&k[row * d_model]));
        contributions[1].push_back(
            DiagonalContribution(&k[row * d_model], &v[row * d_model]));
      }
      for (int64_t channel = 0; channel < d_model; ++channel) {
        const int64_t at = row * d_model + channel;
        const double newest =
            double{filter_[(block_.taps - 1) * d_model + channel]} * k[at];
        const double before = Shifted(channel);
        const double direct = ssm_.Direct(channel) * v[at] * q[at];
        const double remembered =
            reads_state_ ? ssm_.Remembered(channel) * q[at] : 0;
        const double written = (before + newest) * v[at];
        shift[at] = static_cast<float>(direct * before);
        diagonal[at] = static_cast<float>(remembered);
        all[at] = static_cast<float>(direct * (before + newest) + remembered);
        if (rows.keeps_write) kept_[channel] = written;
        if (rows.in_sequence) {
          ssm_.MoveOn(channel, Left(rows, row, written, kept_, channel));
        }
      }
      if (rows.in_sequence) MoveOn(&k[row * d_model]);
    }
    ENGRAM_ASSIGN_OR_RETURN(
        ProbedOutputs outputs,
        Project(block_.output, rows, all,
                {std::move(shift), std::move(diagonal)}, &products_));
    if (!rows.in_sequence) outputs.memory_tokens = ssm_.MemoryOfAll();
    outputs.contributions = std::move(contributions);
    if (rows.is_asked) reading_ = {std::move(q), std::move(v), position_};
    return outputs;
  }

  const LinearWeights& last_product() const override { return block_.output; }

  std::vector<double> Attribute(const std::vector<double>& direction,
                                bool through_convolution) override {
    Restart();
    through_convolution_ = through_convolution;
    direction_.resize(block_.d_model());
    const int64_t to_asked = reading_.position - position_;
    double shift = 0, diagonal = 0;
    for (int64_t channel = 0; channel < block_.d_model(); ++channel) {
      direction_[channel] = direction[channel] * reading_.q[channel];
      diagonal +=
          direction_[channel] * ssm_.RememberedAfter(to_asked + 1, channel);
      double sum = 0;
      for (int64_t back = 1; to_asked + back < block_.taps; ++back) {
        sum += Filter(to_asked + back, channel) * Recent(back, channel);
      }
      shift += ShiftDirection(channel) * sum;
    }
    return {shift, diagonal};
  }

  void CutTap(int64_t tap) override {
    std::fill_n(filter_.begin() + tap * block_.d_model(), block_.d_model(),
                0.0f);
  }
  void ReadOwnWriteOnly() override { reads_state_ = false; }
  void Forget() override { ssm_.Restart(nullptr); }

 private:
  // How the asked token reads.
  struct Reading {
    std::vector<float> q, v;
    int64_t position = 0;
  };

  void Restart() {
    position_ = saved_.position;
    window_ =
        CopyOf(saved_.components[0], (block_.taps - 1) * block_.d_model());
    ssm_.Restart(saved_.components[1]);
  }

  // What the filter multiplies the k of `lag` tokens before by.
  double Filter(int64_t lag, int64_t channel) const {
    return filter_[(block_.taps - 1 - lag) * block_.d_model() + channel];
  }
  // The k of so many tokens before the next one, within the window.
  double Recent(int64_t back, int64_t channel) const {
    const int64_t places = block_.taps - 1;
    const int64_t place = ((position_ - back) % places + places) % places;
    return window_[place * block_.d_model() + channel];
  }
  // What the asked token multiplies its filter's sum by.
  double ShiftDirection(int64_t channel) const {
    return direction_[channel] * ssm_.Direct(channel) * reading_.v[channel];
  }

  // Of the next token, by the filter of the asked one.
  TokenContribution ShiftContribution(const float* k) const {
    const int64_t lag = reading_.position - position_;
    double sum = 0;
    for (int64_t i = 0; i < block_.d_model() && lag < block_.taps; ++i) {
      sum += ShiftDirection(i) * Filter(lag, i) * k[i];
    }
    return {{sum}, 0};
  }
  // Of the next token, by its p, which its own filter made.
  TokenContribution DiagonalContribution(const float* k, const float* v) const {
    const int64_t lag = reading_.position - position_;
    TokenContribution contribution;
    contribution.by_lag.resize(through_convolution_ ? block_.taps : 1);
    for (int64_t i = 0; i < block_.d_model() && lag > 0; ++i) {
      const double weight = direction_[i] * ssm_.Kernel(lag, i) * v[i];
      if (!through_convolution_) {
        contribution.by_lag[0] += weight * (Filter(0, i) * k[i] + Shifted(i));
        continue;
      }
      contribution.by_lag[0] += weight * Filter(0, i) * k[i];
      for (int64_t back = 1; back < block_.taps; ++back) {
        contribution.by_lag[back] += weight * Filter(back, i) * Recent(back, i);
      }
    }
    return contribution;
  }

  // The filter's sum over the tokens before the next one, which lie in a ring.
  double Shifted(int64_t channel) const {
    double sum = 0;
    for (int64_t back = 1; back < block_.taps; ++back) {
      sum += Filter(back, channel) * Recent(back, channel);
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
  SavedLayer saved_;
  int64_t position_ = 0;
  std::vector<float> filter_;  // [taps, d_model]
  std::vector<float> window_;  // [taps - 1, d_model]
  HostDiagonalSsm ssm_;

  bool reads_state_ = true;
  std::vector<double> kept_;  // [d_model]: p

  Reading reading_;
  std::vector<double> direction_;  // with q; empty: none is looked in
  bool through_convolution_ = false;
};

class S4dProbe final : public MixerProbe {
 public:
  S4dProbe(const S4dBlockArguments& block, HostProducts* products)
      : block_(block), products_(*products) {}

  absl::Status Read(const SavedLayer& saved) {
    saved_ = saved;
    return ssm_.Read(block_.ssm, block_.d_model(), saved.components[0],
                     products_);
  }

  std::vector<const char*> shares() const override {
    return {"diagonal_state"};
  }

  absl::StatusOr<ProbedOutputs> Feed(const ProbedRows& rows) override {
    const int64_t d_model = block_.d_model(), floats = rows.rows * d_model;
    std::vector<float> all(floats), remembered(floats);
    std::vector<TokenContribution> contributions;
    std::vector<double> shares(d_model);
    for (int64_t row = 0; row < rows.rows; ++row) {
      if (rows.in_sequence && !direction_.empty()) {
        contributions.push_back(Contribution(&rows.normed[row * d_model]));
      }
      for (int64_t channel = 0; channel < d_model; ++channel) {
        const int64_t at = row * d_model + channel;
        const double before = reads_state_ ? ssm_.Remembered(channel) : 0;
        const double y = before + ssm_.Direct(channel) * rows.normed[at];
        const double share = shares[channel] = NormalShare(y);
        remembered[at] = static_cast<float>(before * share);
        all[at] = static_cast<float>(y * share);
        if (rows.in_sequence) {
          ssm_.MoveOn(channel,
                      Left(rows, row, rows.normed[at], kept_, channel));
        }
      }
      if (rows.keeps_write) kept_.assign(rows.normed, rows.normed + d_model);
      if (rows.in_sequence) ++fed_;
    }
    ENGRAM_ASSIGN_OR_RETURN(
        ProbedOutputs outputs,
        Project(block_.output, rows, all, {std::move(remembered)}, &products_));
    if (!rows.in_sequence) outputs.memory_tokens = ssm_.MemoryOfAll();
    if (!contributions.empty()) outputs.contributions = {contributions};
    if (rows.is_asked) reading_ = {std::move(shares), fed_};
    return outputs;
  }

  const LinearWeights& last_product() const override { return block_.output; }

  // There is no convolution.
  std::vector<double> Attribute(const std::vector<double>& direction,
                                bool /*through_convolution*/) override {
    ssm_.Restart(saved_.components[0]);
    fed_ = 0;
    direction_.resize(block_.d_model());
    double before = 0;
    for (int64_t channel = 0; channel < block_.d_model(); ++channel) {
      direction_[channel] = direction[channel] * reading_.gate[channel];
      before += direction_[channel] *
                ssm_.RememberedAfter(reading_.tokens_before + 1, channel);
    }
    return {before};
  }

  void CutTap(int64_t /*tap*/) override {
    ENGRAM_CHECK(false);  // there is no convolution
  }
  void ReadOwnWriteOnly() override { reads_state_ = false; }
  void Forget() override { ssm_.Restart(nullptr); }

 private:
  // How the asked token reads.
  struct Reading {
    std::vector<double> gate;  // [d_model]: Φ(y_t)
    int64_t tokens_before = 0;
  };

  // Of the next token.
  TokenContribution Contribution(const float* input) const {
    const int64_t lag = reading_.tokens_before - fed_;
    double sum = 0;
    for (int64_t i = 0; i < block_.d_model(); ++i) {
      sum += direction_[i] * input[i] *
             (lag == 0 ? ssm_.Direct(i) : ssm_.Kernel(lag, i));
    }
    return {{sum}, 0};
  }

  const S4dBlockArguments block_;
  HostProducts& products_;
  SavedLayer saved_;
  HostDiagonalSsm ssm_;
  int64_t fed_ = 0;  // since what was saved

  bool reads_state_ = true;
  std::vector<double> kept_;  // [d_model]

  Reading reading_;
  std::vector<double> direction_;  // with the gate; empty: none is looked in
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
